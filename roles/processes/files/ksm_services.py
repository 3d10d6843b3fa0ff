"""The services of ksm_launcher.py: their command lines, questions, data sets.

`asked` has the options of the launcher. A `copy` has its number, its scratch directory, and the
unix socket that it listens on.

Standard library only, Python 3.9 or newer.
"""

import json
import random
import socket
import subprocess
import sys
from pathlib import Path

VALUE_BYTES = 1000  # of one key of a data set
RECORD_BYTES = {"python": 16384}  # where it is not that
BATCH = 1000  # keys that are written at once


class FailedError(Exception):
    """The copies cannot run; the message is for the user."""


def environment(copy):
    """Return the environment of a copy and its check."""
    own = {"KSM_COPY": str(copy["number"]), "KSM_SOCKET": copy["socket"]}
    return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", **own}


def command_of(asked, copy):
    """Return the command line of a copy."""
    if asked["service"] == "python":
        program = Path(__file__).with_name("ksm_workers.py")
        options = {
            name: asked[name] for name in ("data", "data_mib", "merge", "preload", "workers")
        }
        return [sys.executable, str(program), json.dumps({**options, "copy": copy["number"]})]
    if asked["service"] == "redis":
        return ["/usr/bin/redis-server", "--port", "0", "--unixsocket", copy["socket"],
                "--save", "", "--appendonly", "no", "--dir", copy["scratch"]]  # fmt: skip
    if asked["service"] == "memcached":
        return ["/usr/bin/memcached", "-u", "root", "-s", copy["socket"], "-t", "1",
                "-m", str(2 * asked["data_mib"] + 64)]  # fmt: skip
    return asked["command"]


QUESTIONS = {
    "python": (b"0\n", b"ready"),
    "redis": (b"PING\r\n", b"+PONG"),
    "memcached": (b"version\r\n", b"VERSION"),
}


def answers(asked, copy, seconds=2.0):
    """Whether a copy answers its check; a service within some seconds."""
    if not asked["service"]:
        done = asked["check"] is None or subprocess.run(
            asked["check"],
            env=environment(copy),
            cwd=copy["scratch"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=asked["ready_seconds"],
            check=False,
        )
        return done is True or done.returncode == 0
    question, answer = QUESTIONS[asked["service"]]
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(seconds)
        client.connect(copy["socket"])
        client.sendall(question)
        return client.recv(100).startswith(answer)


def record_count(asked):
    """Return how many keys the data set of a copy has. They are numbers from 0."""
    return max(1, asked["data_mib"] * 2**20 // RECORD_BYTES.get(asked["service"], VALUE_BYTES))


def key_name(key):
    """Return the name of a key in a store."""
    return f"key:{key:012}"


def value_of(asked, key, number):
    """Return the value of a key in a copy."""
    seed = number if asked["data"] == "different" else 0
    return random.Random(f"{seed} {key}").randbytes(VALUE_BYTES // 2).hex()


def records(asked, number):
    """Yield (key, value) of the data set of a copy; see `data` in docs/experiments.md."""
    order = list(range(record_count(asked)))
    if asked["data"] == "similar":
        random.Random(number).shuffle(order)
    for key in order:
        yield key, value_of(asked, key, number)


FORMS = {  # of a command that stores a value, and the answer to it
    "redis": ("*3\r\n$3\r\nSET\r\n${size}\r\n{key}\r\n${length}\r\n{value}\r\n", b"+OK\r\n"),
    "memcached": ("set {key} 0 0 {length}\r\n{value}\r\n", b"STORED\r\n"),
}


def load(asked, copy):
    """Write the data set of a copy, unless it makes its own, and require that all is taken."""
    if asked["service"] not in FORMS:
        return
    form, good = FORMS[asked["service"]]
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(30)
        client.connect(copy["socket"])
        batch = []
        for key, value in records(asked, copy["number"]):
            name = key_name(key)
            batch.append(form.format(size=len(name), key=name, length=len(value), value=value))
            if len(batch) == BATCH:
                send(client, batch, good)
                batch = []
        send(client, batch, good)


def send(client, batch, good):
    """Send commands, and require the good answer to each."""
    client.sendall("".join(batch).encode())
    expected, got = good * len(batch), b""
    while len(got) < len(expected):
        more = client.recv(65536)
        got += more
        if not more or not expected.startswith(got):
            raise FailedError(f"does not take its data: {got[-100:].decode(errors='replace')!r}")
