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
RECORD_BYTES = {"python": 16384, "nginx": 16384}  # where it is not that
BATCH = 1000  # keys that are written at once


class FailedError(Exception):
    """The copies cannot run; the message is for the user."""


POSTGRES = Path("/usr/lib/postgresql")
POSTGRES_HELPERS = ("checkpointer", "background writer", "walwriter")
# A cluster of its own in the scratch directory, which is in memory: nothing is flushed. Processes
# that come and go by themselves are off. PostgreSQL refuses to be root.
POSTGRES_SCRIPT = """
set -e
chown postgres: .
exec /usr/bin/setpriv --reuid=postgres --regid=postgres --init-groups /bin/sh -ec '
  "$0/initdb" --pgdata=data --auth=trust --no-sync --no-locale --encoding=UTF8 >/dev/null
  exec "$0/postgres" -D data -c listen_addresses= -c unix_socket_directories="$1" \\
    -c shared_buffers="$2MB" -c huge_pages=off -c fsync=off -c autovacuum=off -c jit=off \\
    -c min_wal_size=32MB -c max_wal_size=64MB -c max_logical_replication_workers=0 \\
    -c max_connections=120 -c logging_collector=off
' "$0" "$1" "$2"
"""

# Compiled for each copy, in a second or two. The heap has its whole size from the start.
JAVA_SCRIPT = """
javac -J-Xmx64m -J-XX:+UseSerialGC -d . "$0"
exec java -XX:+UseSerialGC "-Xms$2m" "-Xmx$2m" -cp . KsmCache "$1"
"""


NGINX = """daemon off;
user root root;
worker_processes 1;
pid {scratch}/pid;
error_log stderr;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  sendfile on;
  keepalive_requests 1000000000;
  client_body_temp_path {scratch}/body;
  proxy_temp_path {scratch}/proxy;
  fastcgi_temp_path {scratch}/fastcgi;
  uwsgi_temp_path {scratch}/uwsgi;
  scgi_temp_path {scratch}/scgi;
  server {{ listen unix:{socket}; root {scratch}/files; }}
}}
"""


def postgres_programs():
    """Return the directory of the newest PostgreSQL of Debian."""
    found = [path for path in POSTGRES.glob("*/bin") if path.parent.name.isdecimal()]
    if not found:
        raise FailedError(f"there is no PostgreSQL in {POSTGRES}")
    return max(found, key=lambda path: int(path.parent.name))


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
    if asked["service"] == "memory":
        program = Path(__file__).with_name("ksm_contents.py")
        options = {name: asked[name] for name in ("data_mib", "merge")} | asked["contents"]
        return [sys.executable, str(program), json.dumps({**options, "copy": copy["number"]})]
    if asked["service"] == "redis":
        return ["/usr/bin/redis-server", "--port", "0", "--unixsocket", copy["socket"],
                "--save", "", "--appendonly", "no", "--dir", copy["scratch"]]  # fmt: skip
    if asked["service"] == "memcached":
        return ["/usr/bin/memcached", "-u", "root", "-s", copy["socket"], "-t", "1",
                "-m", str(2 * asked["data_mib"] + 64)]  # fmt: skip
    if asked["service"] == "postgres":
        buffers = str(2 * asked["data_mib"] + 16)
        return ["/bin/sh", "-c", POSTGRES_SCRIPT, str(postgres_programs()), copy["scratch"],
                buffers]  # fmt: skip
    if asked["service"] == "java":
        source = str(Path(__file__).with_name("KsmCache.java"))
        return [
            "/bin/sh",
            "-ec",
            JAVA_SCRIPT,
            source,
            copy["socket"],
            str(2 * asked["data_mib"] + 32),
        ]
    if asked["service"] == "nginx":
        file = Path(copy["scratch"], "nginx.conf")
        file.write_text(NGINX.format(**copy))
        return ["/usr/sbin/nginx", "-e", "stderr", "-c", str(file), "-p", copy["scratch"]]
    return asked["command"]


QUESTIONS = {
    "memory": (b"?\n", b"ready"),
    "python": (b"0\n", b"ready"),
    "redis": (b"PING\r\n", b"+PONG"),
    "memcached": (b"version\r\n", b"VERSION"),
    "java": (b"version\r\n", b"VERSION"),
    "nginx": (b"GET / HTTP/1.0\r\n\r\n", b"HTTP/1"),
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
    if asked["service"] == "postgres":
        return psql(copy, "SELECT 1", timeout=seconds).returncode == 0
    question, answer = QUESTIONS[asked["service"]]
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(seconds)
        client.connect(copy["socket"])
        client.sendall(question)
        return client.recv(100).startswith(answer)


def psql(copy, *commands, **options):
    """Let psql run commands in a copy of PostgreSQL."""
    argv = [str(postgres_programs() / "psql"), "-h", copy["scratch"], "-U", "postgres", "-qAtX"]
    argv += [word for command in commands for word in ("-c", command)]
    return subprocess.run(argv, capture_output=True, text=True, check=False, **options)


def workers_of(asked, pids):
    """Return those of the further processes of a copy that stay as long as it does."""
    if asked["service"] in ("python", "nginx"):
        return pids
    if asked["service"] == "postgres":
        return [pid for pid in pids if title(pid) in POSTGRES_HELPERS]
    return []


def title(pid):
    """Return what a process of PostgreSQL says that it is."""
    try:
        text = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""
    return text.partition("postgres: ")[2].strip("\0 ")


def record_count(asked):
    """Return how many keys the data set of a copy has. They are numbers from 0."""
    return max(1, asked["data_mib"] * 2**20 // RECORD_BYTES.get(asked["service"], VALUE_BYTES))


def key_name(key):
    """Return the name of a key in a store."""
    return f"key:{key:012}"


def value_of(asked, key, number):
    """Return the value of a key in a copy."""
    seed = number if asked["data"] == "different" else 0
    size = RECORD_BYTES.get(asked["service"], VALUE_BYTES)
    return random.Random(f"{seed} {key}").randbytes(size // 2).hex()


def records(asked, number):
    """Yield (key, value) of the data set of a copy; see `data` in docs/experiments.md."""
    order = list(range(record_count(asked)))
    if asked["data"] == "similar":
        random.Random(number).shuffle(order)
    for key in order:
        yield key, value_of(asked, key, number)


MEMCACHED = ("set {key} 0 0 {length}\r\n{value}\r\n", b"STORED\r\n")
FORMS = {  # of a command that stores a value, and the answer to it
    "redis": ("*3\r\n$3\r\nSET\r\n${size}\r\n{key}\r\n${length}\r\n{value}\r\n", b"+OK\r\n"),
    "memcached": MEMCACHED,
    "java": MEMCACHED,
}


def load(asked, copy):
    """Write the data set of a copy, unless it makes its own, and require that all is taken."""
    if asked["service"] == "postgres":
        fill_table(asked, copy)
    if asked["service"] == "nginx":
        files = Path(copy["scratch"], "files")
        files.mkdir()
        for key, value in records(asked, copy["number"]):
            Path(files, key_name(key)).write_text(value)
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


def fill_table(asked, copy):
    """Write the data set of a copy of PostgreSQL: a table with a row for each key."""
    rows = "".join(f"{key}\t{value}\n" for key, value in records(asked, copy["number"]))
    done = psql(
        copy,
        "CREATE TABLE data (key int PRIMARY KEY, value text NOT NULL)",
        "COPY data FROM STDIN",
        "VACUUM ANALYZE data",
        "CHECKPOINT",
        input=rows,
    )
    if done.returncode or done.stderr:
        raise FailedError(f"does not take its data: {done.stderr.strip()[-200:]}")
