#!/usr/bin/env python3
"""A server of prefork workers, as Python applications often are, with a set of imports and data.

One file, standard library only, Python 3.9 or newer. Its argument is JSON: copy, data, data_mib,
merge, preload, workers. All workers accept on the unix socket KSM_SOCKET, a request for each
connection, and answer `ready`. At SIGUSR1, a worker writes to each page of its data.
"""

import sys

if sys.version_info < (3, 9):  # before anything that an older Python does not have
    sys.exit("ksm_workers.py needs Python 3.9 or newer; this is {}.{}".format(*sys.version_info))

import contextlib
import importlib
import json
import mmap
import os
import random
import signal
import socket

IMPORTS = (
    "argparse asyncio concurrent.futures csv datetime decimal difflib email.mime.text gzip hashlib"
    " html.parser http.client http.server json logging.config multiprocessing pydoc sqlite3 ssl"
    " statistics tarfile unittest.mock urllib.request uuid xml.etree.ElementTree zipfile"
)
RECORD = 16384  # bytes


def load(asked):
    """Import what an application imports, and make its data set: records in their order."""
    modules = [importlib.import_module(name) for name in IMPORTS.split()]
    count = asked["data_mib"] * 2**20 // RECORD
    order = list(range(count))
    if asked["data"] == "similar":
        random.Random(asked["copy"]).shuffle(order)
    seed = asked["copy"] if asked["data"] == "different" else 0
    memory = mmap.mmap(-1, max(1, count) * RECORD, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if asked["merge"] == "madvise":
        memory.madvise(mmap.MADV_MERGEABLE)
    for key in order:
        memory.write(random.Random(f"{seed} {key}").randbytes(RECORD))
    return modules, memory


def serve(listener, loaded):
    """Answer each client: `12` gets the sum of record 12, and `+12` writes it again."""
    _modules, memory = loaded
    signal.signal(signal.SIGUSR1, lambda *_: write_all(memory))
    while True:
        client, _ = listener.accept()
        with client, contextlib.suppress(OSError, ValueError):  # a client may be gone, or be odd
            question = client.recv(100) or b"0"
            key = int(question) * RECORD % len(memory)
            record = memory[key : key + RECORD]
            if question.startswith(b"+"):
                memory[key : key + RECORD] = record
            client.sendall(f"ready {sum(record)}\n".encode())


def write_all(memory):
    """Write to each page what no other process has there, so that it cannot be merged again."""
    own = os.getpid().to_bytes(4, "little")
    for page in range(0, len(memory), mmap.PAGESIZE):
        memory[page : page + len(own)] = own


def main():
    """Start the workers, open the socket when all have loaded, and wait for the end of one."""
    asked = json.loads(sys.argv[1])
    loaded = load(asked) if asked["preload"] else None
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(os.environ["KSM_SOCKET"])
    is_ready, ready = os.pipe()
    opened, to_open = os.pipe()
    for _ in range(asked["workers"]):
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.close(to_open)
            own = loaded or load(asked)
            os.write(ready, b".")
            os.read(opened, 1)  # ends when the first process has closed it
            serve(listener, own)
    os.close(ready)
    for _ in range(asked["workers"]):
        if not os.read(is_ready, 1):
            sys.exit("a worker has ended")
    listener.listen(socket.SOMAXCONN)
    os.close(to_open)
    os.wait()
    sys.exit("a worker has ended")


if __name__ == "__main__":
    main()
