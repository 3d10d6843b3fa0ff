"""Traces: what the census program writes, and what is read of it, compared with known contents."""

import contextlib
import dataclasses
import json
import math
import os
import random
import re
import zlib
from array import array
from itertools import pairwise

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from programs import ROLES, load
from pyarrow import parquet

from ksm_analysis.errors import InputError
from ksm_analysis.results import trace_columns, trace_order, traces

ksm_census = load(ROLES / "part_census/files/ksm_census.py")
PAGE = ksm_census.PAGE
ANON, KSM, ZERO_PAGE = 1 << 12, 1 << 12 | 1 << 21, 1 << 24
PRESENT, SWAPPED, FILE, ALONE = (1 << bit for bit in (63, 62, 61, 56))


def common(page, other):
    """Return how many leading bytes of two different pages are equal, found byte by byte."""
    return next(n for n, (one, two) in enumerate(zip(page, other, strict=True)) if one != two)


def some_pages(draw, number):
    """Return different pages, many of which begin alike."""
    found = {bytes(PAGE)}
    while len(found) < number:
        page = bytearray(draw.choice(sorted(found)))
        page[draw.choice((0, 3, 7, 8, 9, 100, PAGE - 1))] = draw.randrange(4)
        found.add(bytes(page))
    draw.shuffle(pages := sorted(found - {bytes(PAGE)}))
    return [bytes(PAGE), *pages]


# --- the order of the contents at one moment ------------------------------------------------------


@pytest.mark.parametrize("at_once", [2, 7, 1024])
@pytest.mark.parametrize("seed", range(8))
def test_contents_are_in_the_order_of_memcmp(monkeypatch, seed, at_once):
    monkeypatch.setattr(ksm_census, "AT_ONCE", at_once)
    draw = random.Random(seed)
    pages = some_pages(draw, draw.choice((1, 2, 90)))
    firsts = array("Q", (int.from_bytes(page[:8]) for page in pages))
    gone = {number for number in range(1, len(pages)) if draw.random() < 0.1}
    order, lcp, unsure = ksm_census.in_order(
        firsts, bytearray(b"\1" * len(pages)), lambda n: None if n in gone else pages[n]
    )
    assert sorted(order) == list(range(len(pages)))
    assert {*unsure} <= gone
    sure = [(pages[n], n) for n in order if n not in unsure]
    assert sure == sorted(sure)
    for (before, after), same in zip(pairwise(order), lcp[1:], strict=True):
        exact = common(pages[before], pages[after])
        assert same == (8 if {before, after} & {*unsure} and exact >= 8 else exact)
        assert (exact >= 8) == (firsts[before] == firsts[after])


def test_contents_that_were_never_seen_are_not_in_the_order():
    pages = [bytes(PAGE), b"b" * PAGE, b"a" * PAGE]
    firsts = array("Q", (int.from_bytes(page[:8]) for page in pages))
    order, lcp, unsure = ksm_census.in_order(firsts, bytearray((1, 0, 1)), pages.__getitem__)
    assert (order.tolist(), lcp.tolist(), unsure.tolist()) == ([0, 2], [0, 0], [])


# --- the order over all moments -------------------------------------------------------------------


def order_of(pages, numbers, gone=frozenset()):
    """Return the order of some contents as the census finds it, which knows 8 bytes of each."""
    order = sorted(numbers, key=lambda n: (pages[n][:8], n in gone, pages[n]))
    alone = {n for n in gone if sum(pages[m][:8] == pages[n][:8] for m in order) == 1}
    lcp = [0]
    for before, after in pairwise(order):
        doubtful = {before, after} & gone - alone
        lcp.append(min(8 if doubtful else 12, common(pages[before], pages[after])))
    return trace_order.Order.of(order, lcp, gone - alone)


def assert_right(order, pages):
    """All that is said of any two contents is true, and of those that are exact all is said."""
    for n, one in enumerate(order.numbers):
        least = len(pages[one])
        for number, lcp, exact in list(zip(order.numbers, order.lcp, order.exact, strict=True))[
            n + 1 :
        ]:
            least, known = min(least, lcp), common(pages[one], pages[number])
            assert least <= known
            if order.exact[n] and exact:
                assert least == known
                assert pages[one] < pages[number]


@pytest.mark.parametrize("seed", range(40))
def test_orders_of_all_moments_are_one_order(seed):
    draw = random.Random(seed)
    pages = [page[:12] for page in some_pages(draw, 60)]
    pages = sorted({bytes(page) for page in pages})
    every = range(len(pages))
    stay, changed = draw.choice((0.2, 0.8, 1.0)), draw.choice((0, 0.1))
    left = [[n for n in every if not n or draw.random() < stay] for _ in range(4)]
    found = [
        order_of(pages, numbers, {n for n in numbers if n and draw.random() < changed})
        for numbers in left
    ]
    order = trace_order.joined(found)
    assert sorted(order.numbers) == sorted(set().union(*left))
    assert_right(order, pages)
    if stay == 1.0 and not changed:
        assert all(order.exact)


def test_a_content_that_is_gone_has_its_place_through_those_that_stay():
    pages = dict(enumerate(part.ljust(4, b"\0") for part in (b"aa", b"aaba", b"aabz", b"ac")))
    old, new = order_of(pages, (0, 1, 3)), order_of(pages, (0, 2, 3))
    both = trace_order.joined([old, new])
    # 1 and 2 have as much in common with 0 and with 3: which is the lower is not known
    assert (both.numbers, both.lcp, both.exact) == (
        [0, 1, 2, 3], [0, 2, 2, 1], [True, True, False, True],
    )  # fmt: skip
    pages[2] = b"ab\0\0"
    both = trace_order.joined([old, order_of(pages, (0, 2, 3))])
    assert (both.numbers, both.lcp, both.exact) == ([0, 1, 2, 3], [0, 2, 1, 1], [True] * 4)


def test_orders_that_contradict_each_other_are_refused():
    one = trace_order.Order.of([0, 1, 2], [0, 1, 1], ())
    other = trace_order.Order.of([0, 2, 1], [0, 1, 1], ())
    with pytest.raises(InputError, match="contradict"):
        trace_order.joined([one, other])


def test_a_doubtful_place_is_corrected_by_a_later_moment():
    pages = {0: b"a" * 20, 1: b"a" * 10 + b"b" * 10, 2: b"a" * 9 + b"b" * 11}
    doubtful = trace_order.Order.of([0, 2, 1], [0, 9, 8], (1,))
    both = trace_order.joined([doubtful, order_of(pages, (0, 1, 2))])
    assert (both.numbers, both.lcp, both.exact) == ([0, 1, 2], [0, 10, 9], [True] * 3)
    again = trace_order.joined([both, doubtful])
    assert (again.numbers, again.lcp, again.exact) == (both.numbers, both.lcp, both.exact)


# --- a trace of known memory ----------------------------------------------------------------------


class Known(ksm_census.Process):
    """A process whose memory and pagemap are files."""

    def __init__(self, name, directory, start=16):
        self.name, self.pid, self.proc = name, 4242, directory / name
        self.proc.mkdir()
        self.start, self.pages = start, 0
        self.mem, self.pagemap = (
            os.open(self.proc / file, os.O_RDWR | os.O_CREAT) for file in ("mem", "pagemap")
        )
        (self.proc / "stat").write_text(f"1 (x) S {' '.join(map(str, range(1, 40)))}")

    def write(self, *pages):
        """Set the pages: bytes, and an entry of the pagemap; or an entry alone."""
        self.pages = len(pages)
        for at, (content, entry) in enumerate(pages, self.start):
            os.pwrite(self.mem, content or b"", at * PAGE)
            os.pwrite(self.pagemap, entry.to_bytes(8, "little"), 8 * at)

    def mappings(self):
        return [(self.start * PAGE, self.pages)], 0, 0

    def alive(self):
        return True


@pytest.fixture
def census(tmp_path):
    """Make a census of two known processes, with a trace."""
    processes = [Known("one", tmp_path), Known("two", tmp_path, 99)]
    flags = tmp_path / "flags"
    flags.write_bytes(array("Q", [0, ANON, KSM, ZERO_PAGE, 0]).tobytes())
    trace = ksm_census.Trace(str(tmp_path / traces.RAW))
    found = ksm_census.Census(processes, False, False, None, trace)
    found.flags = found.counts = os.open(flags, os.O_RDONLY)
    return found


A, B, C, ZEROS = b"a" * PAGE, b"a" * (PAGE - 1) + b"b", b"c" * PAGE, bytes(PAGE)
OWN = PRESENT | ALONE


def known_trace(census):
    """Take two censuses, and end the trace."""
    one, two = census.processes
    one.write((A, OWN), (ZEROS, OWN), (None, 0), (None, SWAPPED), (None, PRESENT | FILE))
    two.write((B, PRESENT | 2), (A, OWN), (ZEROS, PRESENT | 3), (B, PRESENT | 2))
    census.take("start")
    one.write((C, OWN), (ZEROS, OWN), (A, OWN))
    census.take("end")
    census.trace.end()


def test_a_trace_has_what_was_in_memory(census, tmp_path):
    known_trace(census)
    trace = traces.read_trace(tmp_path)
    assert (tmp_path / traces.RAW).stat().st_mode & 0o777 == 0o600
    assert trace.page_size == PAGE
    assert trace.moments["moment"].to_list() == ["start", "end"]
    assert trace.moments["seconds"].iloc[0] == 0
    assert trace.processes["name"].to_list() == ["one", "two"]
    assert trace.mappings.to_numpy().tolist() == [[0, 0, 3], [0, 3, 2], [1, 5, 4]]
    # in the order of first sight: A is 1, B is 2, C is 3
    assert trace.contents.tolist() == [
        [1, 0, -1, -1, -1, 2, 1, 0, 2],
        [3, 0, 1, -1, -1, 2, 1, 0, 2],
    ]
    in_memory, merged = traces.PRESENT, traces.PRESENT | traces.MERGED
    zero, none, swapped = traces.PRESENT | traces.ZERO_FRAME, traces.UNMERGEABLE, traces.SWAPPED
    second = [merged, in_memory, zero, merged]
    assert trace.flags.tolist() == [
        [in_memory, in_memory, 0, swapped, none, *second],
        [in_memory, in_memory, in_memory, none, none, *second],
    ]
    assert trace.order["rank"].to_list() == [0, 1, 2, 3]
    assert trace.order["lcp"].to_list() == [0, 0, PAGE - 1, 0]
    assert trace.order["exact"].all()
    assert (trace.contents.dtype, trace.flags.dtype) == (np.int32, np.uint8)


def test_how_long_processes_were_stopped_is_unknown_if_the_trace_does_not_say_it(census, tmp_path):
    known_trace(census)
    assert traces.read_trace(tmp_path).moments["paused_seconds"].to_list() == [0, 0]
    raw = tmp_path / traces.RAW
    raw.write_bytes(raw.read_bytes().replace(b'"paused_seconds"', b'"of another"'))
    assert "paused_seconds" not in traces.read_trace(tmp_path).moments


def test_processes_that_end_have_no_pages_from_then_on(census, tmp_path):
    one, two = census.processes
    one.write((A, OWN))
    two.write((B, OWN), (C, OWN))
    census.take("start")
    one.alive = lambda: False
    census.take("every")
    two.alive = lambda: False
    census.take("end")
    census.trace.end()
    for _ in range(2):
        trace = traces.read_trace(tmp_path)
        assert trace.contents.tolist() == [[1, 2, 3], [-1, 2, 3], [-1, -1, -1]]
        assert trace.flags[2].tolist() == [traces.UNMERGEABLE] * 3
        assert trace.order["exact"].all()


def test_a_trace_may_have_no_pages(census, tmp_path):
    for process in census.processes:
        process.write((A, OWN))
        process.alive = lambda: False
    census.take("end")
    census.trace.end()
    for _ in range(2):
        trace = traces.read_trace(tmp_path)
        assert trace.contents.shape == (1, 0)
        assert len(trace.order) == 1


def test_a_trace_ends_when_it_has_too_many_contents(census, tmp_path, monkeypatch):
    one, two = census.processes
    one.write((A, OWN))
    two.write((B, OWN))
    monkeypatch.setattr(ksm_census, "MOST_CONTENTS", 3)
    assert census.take("start")["complaints"] == []
    one.write((C, OWN))
    assert "the trace has ended before this census" in census.take("every")["complaints"][0]
    assert "the trace has ended before this census" in census.take("end")["complaints"][0]
    census.trace.end()
    assert traces.read_trace(tmp_path).contents.tolist() == [[1, 2]]


def test_it_does_not_have_the_contents(census, tmp_path):
    secret = b"correct horse battery staple".ljust(PAGE, b"!")
    census.processes[0].write((secret, OWN), (secret[:-1] + b"?", OWN))
    census.processes[1].write((A, OWN))
    census.take("end")
    census.trace.end()
    raw = tmp_path / traces.RAW
    everything = raw.read_bytes()
    for part in re.split(rb"(?=\x78\x01)", everything):  # as zlib begins
        with contextlib.suppress(zlib.error):
            everything += zlib.decompressobj().decompress(part)
    assert len(everything) > raw.stat().st_size
    hashes = [hash(page).to_bytes(8, "little", signed=True) for page in (secret, A)]
    assert not any(each in everything for each in (secret[:8], A[:8], *hashes))


def test_it_is_converted_once_and_again_if_it_changes(census, tmp_path):
    known_trace(census)
    first = traces.read_trace(tmp_path)
    pages = tmp_path / "trace" / traces.PAGES
    before = pages.stat().st_mtime_ns
    for where in (tmp_path, tmp_path / "trace"):
        again = traces.read_trace(where)
        for name in ("moments", "processes", "mappings", "order"):
            assert getattr(again, name).equals(getattr(first, name)), name
        assert (again.contents == first.contents).all()
        assert (again.flags == first.flags).all()
    assert pages.stat().st_mtime_ns == before
    os.utime(tmp_path / traces.RAW, ns=(1, 1))
    pages.write_bytes(b"damaged")
    assert (traces.read_trace(tmp_path).contents == first.contents).all()
    assert pages.stat().st_mtime_ns != before


def test_a_trace_that_is_cut_short_is_refused(census, tmp_path):
    known_trace(census)
    raw = tmp_path / traces.RAW
    whole = raw.read_bytes()
    for size in range(0, len(whole), 7):
        raw.write_bytes(whole[:size])
        said = "is cut short after [012] moments|does not begin with a header"
        with pytest.raises(InputError, match=said):
            traces.read_trace(tmp_path)


@pytest.mark.parametrize(
    ("was", "now", "said"),
    [
        (b'"format":1', b'"format":2', "is a trace of format 2: this version reads only format 1"),
        (b'"page_size":4096', b'"page_size":16384', "of pages of 16384 bytes: only 4096"),
        (b'"kind":"header"', b'"kind":"census"', "does not begin with a header"),
        (b'{"kind":"moment"', b'["kind":"moment"', "is damaged at byte"),
        (b'"mappings":[["one"', b'"mappings":[["one",0', "moment 0 is damaged"),
        (b'"parts":[', b'"parts":[7,', "moment 0 is damaged"),
        (b'"bytes":', b'"bytes":null,"was":', "is damaged at byte"),
        (b'"bytes":', b'"bytes":"5","was":', "is damaged at byte"),
        (b'"moments":2', b'"moments":3', "is cut short after 2 moments"),
        (b'"mappings":[["one",16,5]', b'"mappings":[["one",16,5],["one",9,0]', "a page or more"),
        (b'"monotonic":', b'"then":', "is damaged: a moment has no 'monotonic'"),
        (b'"ksm":{', b'"ksm":[],"was":{', "is damaged: "),
        (b'"started":{"one":', b'"started":{"one":[],"three":', "is damaged: "),
    ],
)
def test_other_versions_page_sizes_and_damage_are_refused(census, tmp_path, was, now, said):
    known_trace(census)
    raw = tmp_path / traces.RAW
    assert was in raw.read_bytes()
    raw.write_bytes(raw.read_bytes().replace(was, now, 1))
    with pytest.raises(InputError, match=said):
        traces.read_trace(tmp_path)


def test_a_directory_without_a_whole_trace_is_refused(census, tmp_path):
    with pytest.raises(InputError, match=r"neither census\.trace nor"):
        traces.read_trace(tmp_path / "elsewhere")
    known_trace(census)
    traces.read_trace(tmp_path)
    for name in (traces.PAGES, traces.CONTENTS):
        path = tmp_path / "trace" / name
        whole = path.read_bytes()
        path.write_bytes(whole[:-100])
        with pytest.raises(InputError, match="has no whole trace"):
            traces.read_trace(tmp_path / "trace")
        path.write_bytes(whole)


# --- the Parquet files ----------------------------------------------------------------------------


def made_up(draw, moments, pages):
    """Make a trace in which pages are written, copied, removed, and become zeros."""
    contents, now, top, times = [], np.full(pages, -1), 0, np.arange(moments) / 3
    for _ in range(moments):
        now = now.copy()
        for page in np.flatnonzero(draw.random(pages) < 0.6):
            kind = draw.integers(5)
            top += kind < 3
            now[page] = top if kind < 3 else (-1, draw.integers(top + 1))[kind - 3]
        contents.append(now)
    order = {
        "rank": [0, *draw.permutation(top) + 1],
        "lcp": draw.integers(0, 4096, top + 1),
        "exact": draw.random(top + 1) < 0.5,
    }
    return traces.Trace(
        PAGE,
        moments=pd.DataFrame({"moment": "every", "monotonic": times, "seconds": times}),
        processes=pd.DataFrame({"name": ["one"], "started": [0.0]}),
        mappings=pd.DataFrame({"process": [0], "first": [0], "pages": [pages]}),
        contents=np.array(contents, np.int32),
        flags=draw.integers(0, 128, (moments, pages), np.uint8),
        order=pd.DataFrame(order).astype({"rank": np.int32, "lcp": np.uint16}),
    )


def assert_equal(one, other):
    for name in ("moments", "processes", "mappings", "order"):
        pd.testing.assert_frame_equal(getattr(one, name), getattr(other, name))
    for name in ("contents", "flags"):
        left, right = getattr(one, name), getattr(other, name)
        assert left.dtype == right.dtype
        assert (left == right).all()


@pytest.mark.parametrize("pages", [0, 1, 200, 700])
@pytest.mark.parametrize("moments", [1, 4])
def test_what_is_written_is_read(tmp_path, moments, pages):
    trace = made_up(np.random.default_rng(pages), moments, pages)
    traces.write_trace(trace, tmp_path)
    assert_equal(traces.read_trace(tmp_path), trace)


@pytest.mark.parametrize("number", [1, 255, 256, 257, 512, 1000])
def test_contents_have_the_places_that_were_written(number):
    draw = np.random.default_rng(number)
    order = pd.DataFrame(
        {"rank": draw.permutation(number).astype(np.int32), "lcp": 0, "exact": True}
    )
    columns = trace_columns.of_order(order)
    assert trace_columns.order_of(pa.table(columns)).equals(order)
    columns["block"] = columns["block"] + 1
    with pytest.raises(ValueError, match="not each content has one place"):
        trace_columns.order_of(pa.table(columns))


def test_contents_that_are_not_in_the_order_of_first_sight_are_not_written(tmp_path):
    trace = made_up(np.random.default_rng(1), 2, 50)
    trace.contents[trace.contents == 3] += 100
    with pytest.raises(ValueError, match="order of first sight"):
        traces.write_trace(trace, tmp_path)


def test_pages_that_all_differ_take_little_more_than_their_order(tmp_path):
    # Random pages: neighbours in the order have 1 or 2 leading bytes in common
    number, draw = 200_000, np.random.default_rng(1)
    trace = made_up(draw, 1, 0)
    order = {
        "rank": draw.permutation(number + 1),
        "lcp": draw.integers(1, 3, number + 1),
        "exact": True,
    }
    trace = dataclasses.replace(
        trace,
        contents=np.arange(1, number + 1, dtype=np.int32)[None],
        flags=np.full((1, number), traces.PRESENT, np.uint8),
        mappings=trace.mappings.assign(pages=number),
        order=pd.DataFrame(order).astype({"lcp": np.uint16}),
    )
    traces.write_trace(trace, tmp_path)
    least = (math.lgamma(number + 1) / math.log(2) + number) / 8  # of the order, and of the lcp
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 1.08 * least
    assert (traces.read_trace(tmp_path).contents == trace.contents).all()


def files_of(trace, form):
    """Return the metadata and the tables of the files of a trace, of each format."""
    tables = {name: getattr(trace, name).to_dict("list") for name in traces.TABLES}
    note = {"format": form, "page_size": PAGE, "source": None, **tables}
    pages, order = trace_columns.of_pages(trace.contents, trace.flags), trace.order
    if form == 1:
        of_moments = enumerate(zip(trace.contents, trace.flags, strict=True))
        pages = {
            f"{name}_{n}": each
            for n, arrays in of_moments
            for name, each in zip(("content", "flags"), arrays, strict=True)
        }
    contents = trace_columns.of_order(order) if form == 2 else order.to_dict("series")
    return {"note": note, "pages": pa.table(pages), "contents": pa.table(contents)}


def write_files(files, directory):
    note = {traces.KEY: json.dumps(files["note"])}
    for name, file in (("pages", traces.PAGES), ("contents", traces.CONTENTS)):
        parquet.write_table(files[name].replace_schema_metadata(note), directory / file)


def put(files, table, column, values):
    """Replace values of a column, or the column if `values` has another type."""
    at = files[table].schema.get_field_index(column)
    files[table] = files[table].set_column(at, column, pa.array(values))


def put_first(files, table, column, value):
    """Replace the first value of a column."""
    old = files[table][column]
    put(files, table, column, pa.array([value, *old.to_pylist()[1:]], old.type))


def without(files, *names):
    """Remove a part of the metadata."""
    *path, last = names
    parent = files["note"]
    for name in path:
        parent = parent[name]
    del parent[last]


@pytest.mark.parametrize("form", [1, 2])
def test_both_formats_are_read(tmp_path, form):
    trace = made_up(np.random.default_rng(1), 3, 50)
    write_files(files_of(trace, form), tmp_path)
    assert_equal(traces.read_trace(tmp_path), trace)


@pytest.mark.parametrize("form", [1, 2])
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (
            lambda f: f.update(note=[]),
            r"pages\.parquet: its metadata .* must be an object, not \[\]",
        ),
        (lambda f: f.update(note=None), "must be an object, not null"),
        (lambda f: f["note"].update(format=3 - f["note"]["format"]), "its column .* must be|nulls"),
        (lambda f: f["note"].update(moments=5), "`moments` must be an object that has a list"),
        (lambda f: without(f, "mappings"), "`mappings` must be an object that has a list"),
        (lambda f: f["note"].update(mappings={}), "`mappings` has no column `process`"),
        (lambda f: f["note"].update(processes={}), "`processes` has no column `name`"),
        (lambda f: without(f, "moments", "seconds"), "`moments` has no column `seconds`"),
        (lambda f: f["note"]["moments"]["seconds"].pop(), "`moments` has columns of different len"),
        (lambda f: f["note"]["moments"]["seconds"].reverse(), "`moments.seconds` of row 0 is 0.6"),
        (
            lambda f: f["note"].update(moments={"moment": [], "monotonic": [], "seconds": []}),
            "`moments` has no row",
        ),
        (
            lambda f: f["note"]["moments"].update(paused_seconds=["0", 0, 0]),
            "`moments.paused_seconds` of row 0 is '0': it must be a number",
        ),
        (
            lambda f: f["note"]["mappings"].update(process=[1]),
            "is 1: it must be the row of one of 1",
        ),
        (
            lambda f: f["note"]["mappings"].update(first=[1]),
            "row 0 has 50 pages from 1: it must be",
        ),
        (lambda f: f["note"]["mappings"].update(pages=[None]), "row 0 is None: .* a whole number"),
        (lambda f: f["note"]["mappings"].update(pages=[10**25]), "it must have the 1000000"),
        (
            lambda f: f.update(pages=f["pages"].slice(0, 40)),
            r"pages\.parquet: it has 40 pages: it must have the 50 of its mappings",
        ),
        (lambda f: f.update(pages=f["pages"].drop(["flags_2"])), "its column flags_2 is missing"),
        (
            lambda f: put(f, "pages", "flags_1", ["a"] * 50),
            "column flags_1 is string: it must be uint",
        ),
        (lambda f: put_first(f, "pages", "flags_0", None), "its column flags_0 has nulls"),
        (
            lambda f: put_first(f, "pages", "content_0", 10**6),
            "of moment 0 has the number 1000000: ",
        ),
        (
            lambda f: put_first(f, "pages", "content_2", -2),
            "of moment 2 has the number -2: -1 is no",
        ),
        (
            lambda f: f.update(contents=f["contents"].slice(0, 0)),
            r"contents\.parquet: it has 0 contents: it must have \d+, as the pages have",
        ),
        (lambda f: f.update(contents=f["contents"].slice(0, 9)), "has 9 contents|has one place"),
        (lambda f: f.update(contents=f["contents"].drop(["lcp"])), "its column lcp is missing"),
        (lambda f: put_first(f, "contents", "lcp", 9999), "an lcp is 9999: 4096 is the most"),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path, form, damage, said):
    files = files_of(made_up(np.random.default_rng(1), 3, 50), form)
    damage(files)
    write_files(files, tmp_path)
    with pytest.raises(InputError, match=said) as error:
        traces.read_trace(tmp_path)
    assert str(error.value).startswith(f"{tmp_path} has no whole trace: ")


def test_ranks_are_each_there_once(tmp_path):
    files = files_of(made_up(np.random.default_rng(1), 3, 50), 1)
    put_first(files, "contents", "rank", 1)
    write_files(files, tmp_path)
    with pytest.raises(
        InputError, match=r"its ranks must be 0 to \d+, and each must be there once"
    ):
        traces.read_trace(tmp_path)


def test_files_without_metadata_are_refused(tmp_path):
    for name in (traces.PAGES, traces.CONTENTS):
        parquet.write_table(pa.table({"n": [1]}), tmp_path / name)
    with pytest.raises(InputError, match=r"pages\.parquet: it has no metadata ksm_testbed_trace"):
        traces.read_trace(tmp_path)


def test_another_format_is_refused(tmp_path):
    for name in (traces.PAGES, traces.CONTENTS):
        note = {traces.KEY: b'{"format": 3, "page_size": 4096}'}
        parquet.write_table(pa.table({"n": [1]}).replace_schema_metadata(note), tmp_path / name)
    with pytest.raises(InputError, match="of format 3: this version reads only format 1 and 2"):
        traces.read_trace(tmp_path)


def test_a_trace_of_format_1_is_the_same_in_the_present_one(tmp_path):
    old = traces.shipped()["redis"]
    note = parquet.read_schema(old / traces.PAGES).metadata[traces.KEY]
    assert json.loads(note)["format"] == 1
    trace = traces.read_trace(old)
    traces.write_trace(trace, tmp_path)
    assert_equal(traces.read_trace(tmp_path), trace)
    sizes = [sum(path.stat().st_size for path in at.iterdir()) for at in (old, tmp_path)]
    assert sizes[1] < 0.4 * sizes[0]


def test_shipped_traces_can_be_read():
    every = traces.shipped()
    assert every.keys() == {
        "redis",
        "python",
        "guests-idle",
        "guests-stress",
        "guests-boot",
        "guests-load",
    }
    assert sum(path.stat().st_size for path in traces.SHIPPED.glob("*/*")) < 5e6
    for path in every.values():
        trace = traces.read_trace(path)
        assert trace.contents.shape == trace.flags.shape
        assert trace.contents.shape[1] == trace.mappings["pages"].sum()
        assert sorted(trace.order["rank"]) == list(range(len(trace.order)))
        assert ((trace.contents >= 0) == (trace.flags & traces.PRESENT > 0)).all()
