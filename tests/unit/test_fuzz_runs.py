"""A damaged run directory affects only that run: there is a reason and no traceback.

Each example damages a small run in one to three places, 1.75 on average. KSM_FUZZ is the number of
examples of the first test; the second has a fifth of it. So KSM_FUZZ=48000 makes 100,000 mutations.
"""

import copy
import json
import os
import random
import shutil
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_runs import Writer, census_lines, events, run_record, sample_lines

from ksm_analysis.analysis import observations, price, recommendation
from ksm_analysis.analysis.answer import headline
from ksm_analysis.analysis.best import best_of
from ksm_analysis.analysis.settings import settings_of
from ksm_analysis.metrics import summary
from ksm_analysis.metrics.measurement import measure
from ksm_analysis.page import tables
from ksm_analysis.results import provenance
from ksm_analysis.results.reader import read_results
from ksm_analysis.results.record import upgraded
from ksm_analysis.results.together import together

# What pandas still does with odd values, and soon will not
pytestmark = pytest.mark.filterwarnings("error::DeprecationWarning")

EXAMPLES = int(os.environ.get("KSM_FUZZ", "200"))
VALUES = (
    None, True, 0, -1, 1, 2, 7.5, -0.0, 1e300, 10**25, float("nan"), float("inf"), "", "text",
    "1", "\x00", "../..", [], {}, [1], ["text"], [None], {"a": 1}, {"name": None}, [{}], [[]],
)  # fmt: skip
RAW = (b"", b"null", b"{}", b"[]", b"[", b"\xff\xfe", b"{" * 2000, b'"text"', b"1", b"NaN", b'{"n"')


def run_files(form, arrays):
    """Make the files of a run with guests, a workload, a census, and arrays if asked."""
    record = run_record(guests=2, workload="stress", interval=0.5, intervals=2)
    record["run"]["census"] = {"end": True, "at_scan_boundary": False, "every": 0, "pause": False}
    files = {
        "samples.jsonl": sample_lines(record),
        "events.jsonl": events(record),
        "census.jsonl": census_lines(record),
    }
    if arrays:
        options = {"change": 1.0, "ints": 100, "second": 1.0, "changed": 0.5}
        record["run"]["workload"]["arrays"] = options
        name = "arrays.jsonl" if form == 2 else "events.jsonl"
        at = {"wall": 1.0, "monotonic": 5_000.5}
        happened = [{"event": f"arrays {what}", **at} for what in ("written", "changed")]
        files[name] = files.get(name, []) + happened
    if form == 2:
        record = upgraded(record)
        record["run"]["parts"].append({"name": "load", "options": {}})
        files["load.jsonl"] = reports()
    return {**files, "run.json": [record]}


def reports():
    """Make lines of metrics that a part reports."""
    of = {"metric": "set_p99", "unit": "ms", "better": "lower", "of": "process-01", "wall": 1.0}
    return [{**of, "value": 1.5, "monotonic": 5_000.0 + n, "since": 4_999.5 + n} for n in range(3)]


def places(tree, path=()):
    """List the paths of all values of a tree, itself included."""
    yield path
    if isinstance(tree, list):
        tree = dict(enumerate(tree))
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from places(value, (*path, key))


def damage_value(dice, rows):
    """Replace, remove, or rename one value of one line."""
    at = dice.randrange(len(rows))
    path = dice.choice(list(places(rows[at])))
    value = copy.deepcopy(dice.choice(VALUES))
    if not path:
        rows[at] = value
        return
    parent = rows[at]
    for key in path[:-1]:
        parent = parent[key]
    if isinstance(parent, list) or dice.random() < 0.7:
        parent[path[-1]] = value
    elif dice.random() < 0.7:
        del parent[path[-1]]
    else:
        parent[dice.choice(["", "n", "guest", "seconds", "a.b"])] = parent.pop(path[-1])


def damage_everywhere(dice, rows):
    """Replace or remove one value in every line that has it."""
    path = dice.choice(list(places(dice.choice(rows))))
    value, gone = dice.choice(VALUES), dice.random() < 0.4
    for row in rows if path else ():
        parent = row
        for key in path[:-1]:
            fits = isinstance(parent, dict) and key in parent
            parent = parent[key] if fits else None
        if isinstance(parent, dict) and path[-1] in parent:
            if gone:
                del parent[path[-1]]
            else:
                parent[path[-1]] = copy.deepcopy(value)


def damage_lines(dice, rows):
    """Remove, repeat, or move lines."""
    at, to = dice.randrange(len(rows)), dice.randrange(len(rows) + 1)
    kind = dice.randrange(5)
    if kind == 0:
        rows.insert(to, copy.deepcopy(rows[at]))
    elif kind == 1:
        rows.insert(to, rows.pop(at))
    elif kind == 2:
        del rows[min(at, to) : max(at, to)]
    elif kind == 3:
        rows.reverse()
    else:
        dice.shuffle(rows)


def damage_bytes(dice, text):
    """Truncate a file, or replace a part of it."""
    at = dice.randrange(len(text) + 1)
    kind = dice.randrange(3)
    if kind == 0:
        return text[:at]
    if kind == 1:
        return dice.choice(RAW)
    lines = text.split(b"\n")
    lines[dice.randrange(len(lines))] = dice.choice(RAW)
    return b"\n".join(lines)


def write_damaged(directory, dice):
    """Write a run with one to three faults."""
    files = run_files(dice.choice((1, 2)), dice.random() < 0.3)
    raw = {}
    for _ in range(dice.choice((1, 1, 2, 3))):
        name = dice.choice(["run.json", "run.json", *files])
        rows = files[name]
        kinds = [damage_value] * 5 + [damage_everywhere] * 2 + [damage_lines] * 2 + [None]
        kind = dice.choice(kinds)
        if kind and rows:
            kind(dice, rows)
        else:
            raw[name] = True
    directory.mkdir(parents=True)
    for name, rows in files.items():
        text = "".join(json.dumps(row) + "\n" for row in rows).encode()
        (directory / name).write_bytes(damage_bytes(dice, text) if name in raw else text)


def assert_same(run, known):
    """A run was read as before, in another directory."""
    assert run.usable
    for name in ("record", "header", "end", "events", "warnings"):
        assert getattr(run, name) == getattr(known, name), name
    for name in ("samples", "guests", "reported"):
        assert getattr(run, name).equals(getattr(known, name)), name


def use(results, known=()):
    """Process results like `summary` and `report`; return the ids of the usable runs.

    `known`: what was measured before of some of the runs. These must be the same again, and are not
    measured again.
    """
    read = {run.path.name: run for run in results.runs}
    before = {each.run.path.name: each for each in known}
    for name, each in before.items():
        assert_same(read[name], each.run)
    results = together([results])
    measured = [
        replace(before[name], run=run) if (name := run.path.name) in before else measure(run)
        for run in results.usable
    ]
    for run in results.usable:
        run.window()
    rows = settings_of(measured)
    headline(rows)
    best_of(rows)
    list(price.sentences(price.prices(measured)))
    price.missing(measured, [])
    observations.checks(measured)
    recommendation.cells(measured)
    for run in results.runs:
        tables.how_it_went(run)
    provenance.facts(results.runs)
    return list(summary.summary(measured).get("run", ()))


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """Make empty directories of results."""
    base = tmp_path_factory.mktemp("fuzz")
    count = iter(range(10**9))
    return lambda: base / str(next(count))


@pytest.fixture(scope="module")
def whole(fresh):
    """Make a directory of results with one complete run, and measure that."""
    directory = fresh()
    Writer(directory)(run_record(guests=1, interval=0.5, intervals=2), name="whole")
    return directory, [measure(run) for run in read_results(directory).usable]


def fuzz(examples):
    return lambda test: settings(max_examples=examples, deadline=None, database=None)(
        given(seed=st.integers(0, 2**63))(test)
    )


@fuzz(EXAMPLES)
def test_a_damaged_run_is_read_or_left_out_with_a_reason(fresh, seed):
    directory = fresh()
    write_damaged(directory / "damaged", random.Random(seed))
    results = together([read_results(directory)])
    whole = [run for run in results.runs if run.usable]
    assert whole or results.warnings
    shutil.rmtree(directory)


@fuzz(max(1, EXAMPLES // 5))
def test_a_damaged_run_does_not_affect_other_runs(fresh, whole, seed):
    directory = fresh()
    shutil.copytree(whole[0], directory)
    write_damaged(directory / "damaged", random.Random(seed))
    assert "g01-k1-idle-r1" in use(read_results(directory), whole[1])
    shutil.rmtree(directory)
