#!/usr/bin/env python3
"""A server of prefork workers, as Python applications often are, with a set of imports and data.

One file, standard library only, Python 3.9 or newer. Its argument is JSON: copy, data, data_mib,
merge, preload, workers. It listens on the unix socket KSM_SOCKET, and answers `ready`. At SIGUSR1,
a worker writes to each page of its data.
"""

import sys

if sys.version_info < (3, 9):  # before anything that an older Python does not have
    sys.exit("ksm_workers.py needs Python 3.9 or newer; this is {}.{}".format(*sys.version_info))

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


def serve(listener, asked, loaded):
    """Answer each client with the sum of one record, so that the data is used."""
    _modules, memory = loaded or load(asked)
    signal.signal(signal.SIGUSR1, lambda *_: write_all(memory))
    while True:
        client, _ = listener.accept()
        with client:
            key = int(client.recv(100) or b"0") * RECORD % len(memory)
            client.sendall(f"ready {sum(memory[key : key + RECORD])}\n".encode())


def write_all(memory):
    """Write to each page what no other process has there, so that it cannot be merged again."""
    own = os.getpid().to_bytes(4, "little")
    for page in range(0, len(memory), mmap.PAGESIZE):
        memory[page : page + len(own)] = own


def main():
    """Start the workers, and wait for the end of one."""
    asked = json.loads(sys.argv[1])
    loaded = load(asked) if asked["preload"] else None
    ready = []
    for number in range(asked["workers"]):
        listener = socket.socket(socket.AF_UNIX)
        path = f"{os.environ['KSM_SOCKET']}{number}"
        listener.bind(path)
        listener.listen(16)
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            serve(listener, asked, loaded)
        listener.close()
        ready.append(path)
    front(ready)


def front(workers):
    """Listen on the socket of the service, and ask each worker in turn. First, all must answer."""
    for path in workers:
        ask(path, b"0")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(os.environ["KSM_SOCKET"])
    listener.listen(16)
    turn = 0
    while True:
        client, _ = listener.accept()
        with client:
            client.sendall(ask(workers[turn], client.recv(100)))
        turn = (turn + 1) % len(workers)


def ask(path, question):
    """Return the answer of a worker."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        client.sendall(question)
        return client.recv(100)


if __name__ == "__main__":
    main()
