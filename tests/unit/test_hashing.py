"""What ksmd compares in its trees, and what hashes would take instead."""

import random
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from ksm_analysis.__main__ import main
from ksm_analysis.metrics import measurement
from ksm_analysis.page import hashing_figures
from ksm_analysis.results import reader
from ksm_analysis.simulator import hashing
from ksm_analysis.simulator.hashing import PAGE, Counted, Met, Order, Tree
from ksm_analysis.simulator.population import read
from ksm_analysis.simulator.tree import Tree as RealTree


def common(one, other):
    """How many leading bytes are equal."""
    return next((n for n in range(len(one)) if one[n] != other[n]), len(one))


def test_where_contents_differ_is_known_from_their_neighbours():
    draw = random.Random(1)
    pages = sorted({bytes(draw.choices(range(2), k=12)) for _ in range(200)})
    lcp = [0, *(common(one, other) for one, other in pairwise(pages))]
    order = Order(pd.DataFrame({"rank": range(len(pages)), "lcp": lcp}))
    one, other = np.array([draw.sample(range(len(pages)), 2) for _ in range(500)]).T
    expected = [common(pages[a], pages[b]) for a, b in zip(one, other, strict=True)]
    assert order.common(one, other).tolist() == expected


@pytest.mark.parametrize("trace", ["redis", "python", "guests-idle"])
def test_searches_compare_about_as_many_bytes_as_in_a_real_tree(trace):
    """The red-black tree of the kernel, with the contents of a trace in the order of pages."""
    order, random_ = Order(read(trace)[0].order), np.random.default_rng(1)
    ranks = random_.permutation(len(order.rank))[:6000]
    tree, nodes, compared = RealTree(lambda rank: rank), 0, 0
    for rank in ranks[:4000].tolist():
        tree.insert(rank)
    for rank in ranks[2000:].tolist():  # half of them are in it
        met = np.array([*tree.path(rank)])
        nodes += len(met)
        equal = np.where(met == rank, PAGE, order.common(np.full(len(met), rank), met) + 1)
        compared += int(np.minimum(equal, PAGE).sum())
    counts = np.bincount(ranks[:4000], minlength=len(order.rank))
    there = np.arange(4000) < 2000
    found = order.search(Tree(counts), ranks[2000:], there, random_)
    print(
        trace,
        found.nodes / nodes,
        found.compared / compared,
        (found.compared - 2000 * PAGE) / (compared - 2000 * PAGE),
    )
    assert found.nodes == pytest.approx(nodes, rel=0.08)  # a balanced tree is less deep
    assert found.compared == pytest.approx(compared, rel=0.03)


def test_what_a_scan_takes_is_a_sum_of_what_happens_to_its_pages():
    scan = Counted(scanned=10, hashed=8, fresh=2, searches=5, joined=2, pairs=1, inserted=2)
    scan = scan._replace(stable=3, items=10, pages=10)
    stable, unstable = Met(4, 0, 100, 50), Met(2, 0, 30, 20)
    found = {name: value for name, _, value in hashing.metrics(scan, stable, unstable)}
    assert found["trees_compared"] == (6 * 100 + 3 * 30 + 3 * PAGE) / 10
    assert found["trees_hashed"] == found["index_hashed"] == 8 * PAGE / 10
    assert found["kept_hashed"] == (8 + 2) * PAGE / 10
    assert found["index_compared"] == pytest.approx(3 * PAGE / 10, abs=0.01)
    checksums, verified = 8 * hashing.PRICES.checksum, 3 * hashing.PRICES.warm[-1]
    assert found["trees_cpu"] == pytest.approx((checksums + 6 * 50 + 3 * 20 + verified) / 10)
    assert found["index_memory"] == (4 * 3 + 8 * 5) / 10
    assert found["hashes_memory"] == (28 * 10 + 32 * 3) / 10


def test_a_page_that_is_skipped_and_always_written_never_rests(tmp_path):
    file = tmp_path / "made.yml"
    file.write_text(
        "population: {trace: python, guests: 1, churn_percent: 50, count_bytes: true}\n"
        "knobs: [{run: 1, pages_to_scan: 1000000, sleep_millisecs: 1000, smart_scan: 1}]\n"
        "sampling: {interval: 2, intervals: 6}\n"
    )
    assert main(["simulate", str(file), "--results", str(tmp_path)]) == 0


def test_a_simulation_counts_bytes_and_the_page_shows_them(tmp_path):
    file = tmp_path / "made.yml"
    file.write_text(
        "population: {trace: redis, guests: [1, 4], churn_percent: [0, 20], count_bytes: true}\n"
        "knobs: [{run: 1, pages_to_scan: 100000, sleep_millisecs: 1000, smart_scan: 0}]\n"
        "sampling: {interval: 2, intervals: 4}\n"
    )
    assert main(["simulate", str(file), "--results", str(tmp_path)]) == 0
    runs = reader.read_results(tmp_path / "made").usable
    values = [dict(run.reported.groupby("metric")["value"].last()) for run in runs]
    algorithms = [f"{name}_" for name in hashing_figures.ALGORITHMS]
    counted = [each + of for each in algorithms for of in ("compared", "cpu", "memory", "hashed")]
    assert {*values[0]} == {"nodes_searched", "pages_looked_for", *counted}
    alone, alone_busy, many, busy = values
    assert alone["index_compared"] == pytest.approx(0, abs=0.1)  # nothing merges at rest
    assert many["trees_compared"] > alone["trees_compared"] > 0  # more nodes are met
    assert alone_busy["pages_looked_for"] < alone["pages_looked_for"]  # what changes is not
    assert busy["index_compared"] > many["index_compared"]  # what was broken merges again
    drawn = [*hashing_figures.figures([measurement.measure(run) for run in runs])]
    assert [name for name, *_ in drawn] == ["compared", "cpu", "memory"]
    for _, _, panels in drawn:
        assert [title for title, _ in panels] == ["redis"]
        assert [len(line.x) for line in panels[0][1].data] == [2] * 8
