#!/usr/bin/env python3
"""A process with memory of known contents, some of which it may write again and again.

One file, standard library only, Python 3.9 or newer. Its argument is JSON: copy, data_mib, merge,
equal_percent, zero_percent, write_percent, rest_seconds, huge_pages. It answers `ready` on the unix
socket KSM_SOCKET when its memory is written.
"""

import sys

if sys.version_info < (3, 9):  # before anything that an older Python does not have
    sys.exit("ksm_contents.py needs Python 3.9 or newer; this is {}.{}".format(*sys.version_info))

import collections
import contextlib
import json
import mmap
import os
import random
import socket
import struct
import time

PAGE = mmap.PAGESIZE
TICK = 0.1  # seconds between two bursts of writes
ZERO, EQUAL, UNIQUE = "zeu"
PASSING = 2**31  # added to the number of a copy: what only a page that does not rest contains


def kinds(asked):
    """Return the kind of each page: exact numbers, mixed at random, the same in all copies."""
    pages = asked["data_mib"] * 2**20 // PAGE
    zero, equal = (int(pages * asked[f"{kind}_percent"] / 100) for kind in ("zero", "equal"))
    found = list(ZERO * zero + EQUAL * equal + UNIQUE * (pages - zero - equal))
    random.Random(0).shuffle(found)
    return found


def content(kind, copy, page):
    """Return what a page at rest contains; equal is what page `page` of every copy contains."""
    return bytes(PAGE) if kind == ZERO else pattern(0 if kind == EQUAL else copy, page + 1)


def pattern(who, number):
    """Return a page that nothing else with another `who` or `number` contains."""
    return struct.pack("<II", who, number) * (PAGE // 8)


class Contents:
    """The memory, and which of its pages do not rest."""

    def __init__(self, asked):
        self.asked, self.kinds = asked, kinds(asked)
        size = len(self.kinds) * PAGE
        self.memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with contextlib.suppress(OSError):  # a kernel without huge pages
            huge = self.asked["huge_pages"]
            self.memory.madvise(mmap.MADV_HUGEPAGE if huge else mmap.MADV_NOHUGEPAGE)
        if asked["merge"] == "madvise":
            self.memory.madvise(mmap.MADV_MERGEABLE)
        for page in range(len(self.kinds)):
            self.restore(page)
        self.a_second = len(self.kinds) * asked["write_percent"] / 100
        self.random = random.Random(asked["copy"])
        self.written = 0
        self.passing = collections.OrderedDict()  # pages that do not rest, in the order of writes

    def write(self, page, data):
        """Write a page."""
        self.memory[page * PAGE : (page + 1) * PAGE] = data

    def restore(self, page):
        """Give a page the content that it has at rest."""
        self.write(page, content(self.kinds[page], self.asked["copy"], page))

    def write_until(self, seconds):
        """Do what is due that many seconds after the begin: write pages, and restore the oldest."""
        due = int(seconds * self.a_second)
        for number in range(self.written, due):
            page = self.random.randrange(len(self.kinds))
            while page in self.passing:
                page = self.random.randrange(len(self.kinds))
            self.write(page, pattern(PASSING + self.asked["copy"], number % 2**32))
            self.passing[page] = None
            if len(self.passing) > self.asked["rest_seconds"] * self.a_second:
                self.restore(self.passing.popitem(last=False)[0])
        self.written = due


def serve(listener, contents):
    """Answer each client, and write between two answers."""
    begin = time.monotonic()
    listener.settimeout(TICK if contents.asked["write_percent"] else None)
    while True:
        with contextlib.suppress(OSError):  # nobody asks now, or a client is gone
            client, _ = listener.accept()
            with client:
                client.sendall(b"ready\n")
        contents.write_until(time.monotonic() - begin)


def main():
    """Write the memory, and hold it."""
    contents = Contents(json.loads(sys.argv[1]))
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(os.environ["KSM_SOCKET"])
    listener.listen(socket.SOMAXCONN)
    serve(listener, contents)


if __name__ == "__main__":
    main()
