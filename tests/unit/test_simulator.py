"""The simulator of ksmd: the rules of the kernel, and runs of experiments."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from programs import ROLES, load

from ksm_analysis.__main__ import main
from ksm_analysis.metrics import advisor, efficiency
from ksm_analysis.metrics.phase_lock import looks, meet
from ksm_analysis.results.reader import read_run
from ksm_analysis.simulator import ksmd as module
from ksm_analysis.simulator import programs, simulate
from ksm_analysis.simulator.ksmd import NEVER, Costs, Ksmd
from ksm_analysis.simulator.tree import Tree

DONE = ("pages_shared", "pages_sharing", "pages_unshared", "pages_volatile", "ksm_zero_pages")


def host(*processes, key=None, **knobs):
    """A host that runs ksmd, with processes of these contents."""
    ksmd = Ksmd(key=key)
    ksmd.set({"smart_scan": 0, **knobs, "run": 1})
    for contents in processes:
        ksmd.arrive(contents)
    return ksmd


def scanned(ksmd, scans):
    for _ in range(scans):
        ksmd.scan()
    return ksmd


def counters(ksmd):
    return tuple(ksmd.counters()[name] for name in DONE)


# --- the rules ------------------------------------------------------------------------------------


def test_equal_pages_merge_at_the_second_unchanged_look():
    ksmd = scanned(host([1, 2, -1], [2, 1, -2]), 1)
    assert counters(ksmd) == (0, 0, 0, 6, 0)
    assert counters(scanned(ksmd, 1)) == (2, 2, 2, 0, 0)
    assert ksmd.saved == ksmd.freed == ksmd.limit() == 2


@pytest.mark.parametrize("most", [2, 7, 256])
@pytest.mark.parametrize("pages", [1, 2, 7, 8, 9, 255, 256, 257, 258, 1000])
def test_a_frame_has_at_most_so_many_pages(pages, most):
    """As the kernel's documentation has it, for pages of one content."""
    ksmd = scanned(host([5] * pages, max_page_sharing=most), 2)
    full, rest = divmod(pages, most)
    frames = full if rest < 2 else full + 1
    alone = 1 if rest == 1 else 0
    assert counters(ksmd)[:3] == (frames, pages - alone - frames, alone)
    chains = (1, frames) if frames > 1 else (0, 0)
    found = ksmd.counters()
    assert (found["stable_node_chains"], found["stable_node_dups"]) == chains
    assert ksmd.freed == ksmd.limit()


def test_pages_of_zeros_need_no_frame_if_asked():
    ksmd = scanned(host([0, 0, 0, -1], use_zero_pages=1), 2)
    assert counters(ksmd) == (0, 0, 1, 3, 3)  # the kernel forgets them in the next scan
    assert counters(scanned(ksmd, 1)) == (0, 0, 1, 0, 3)
    assert ksmd.limit() == 3
    ksmd.write(ksmd.processes[0], [0], [-2])
    assert ksmd.zero_pages == 2


@pytest.mark.parametrize("budget", [7, 300, 512, 10**6])
@pytest.mark.parametrize("use_zero_pages", [0, 1])
def test_a_huge_page_that_is_split_gives_up_its_zeros(budget, use_zero_pages):
    """64 MiB, half of it zeros and an eighth equal: Linux 6.18 frees 40 MiB and counts 8."""
    pages = [*range(-1, -6145, -1), *[5] * 2048, *[0] * 8192]
    random.Random(1).shuffle(pages)
    ksmd = Ksmd()
    process = ksmd.arrive(pages, huge=True)
    ksmd.set({"smart_scan": 0, "use_zero_pages": use_zero_pages, "pages_to_scan": budget, "run": 1})
    assert ksmd.limit() == 8192 + 2048 - 8
    while ksmd.full_scans < 3:
        ksmd.batch()
    assert counters(ksmd) == (8, 2040, 6144, 0, 0)
    assert (ksmd.freed, ksmd.emptied, ksmd.limit()) == (10232, 8192, 10232)
    assert ksmd.of(process)["resident_pages"] == 8192
    zero = pages.index(0)
    ksmd.write(process, [zero], [-7000])
    assert (ksmd.freed, ksmd.emptied) == (10231, 8191)
    ksmd.leave(process)
    ksmd.scan()
    assert (ksmd.freed, ksmd.emptied, ksmd.pages) == (0, 0, 0)


def test_a_huge_page_without_equals_stays_whole():
    ksmd = scanned(host(), 0)
    for sign in (1, 2):
        ksmd.arrive([-sign * 1000 - n for n in range(511)] + [0], huge=True)
    ksmd.arrive([7] + [-4000 - n for n in range(99)], huge=True)  # too small for one
    scanned(ksmd, 2)
    # the second huge page is split at its zeros, since the first has some; nothing is merged
    assert (ksmd.emptied, ksmd.freed, ksmd.sharing) == (1, 1, 0)
    scanned(ksmd, 3)
    assert ksmd.emptied == 1


@pytest.mark.parametrize("batch", [1, 10])
def test_smart_scan_looks_at_pages_as_they_age(batch):
    ksmd = host([-1], smart_scan=1, pages_to_scan=batch)
    found = []
    for scan in range(1, 46):
        before = ksmd.scanned
        while ksmd.full_scans < scan:
            ksmd.advance(0.001)
        found += [scan] if ksmd.scanned > before else []
    assert found == looks(45)
    assert ksmd.skipped == 45 - len(found)


@pytest.mark.parametrize("distance", range(1, 45))
def test_equal_pages_meet_as_predicted(distance):
    ksmd = scanned(host([1] * 2 + [-1], smart_scan=1), 0)
    ksmd.write(ksmd.processes[0], [0, 1], [1, -2])
    scanned(ksmd, distance)
    ksmd.arrive([1])
    assert ksmd.limit() == 1
    assert scanned(ksmd, 60).saved == meet(distance, 60)


def test_a_process_that_comes_within_a_scan_is_not_in_it():
    ksmd = host([1] * 10, [2] * 10)
    ksmd.set({"pages_to_scan": 5})
    ksmd.advance(1e-6)
    ksmd.arrive([3] * 7)
    ksmd.advance(0.5)
    assert [process.size for process in ksmd.processes] == [7, 10, 10]
    scan = host([1] * 10, [2] * 10, pages_to_scan=5)
    scan.arrive([3] * 7)
    assert [process.size for process in scan.processes] == [10, 10, 7]


def test_writes_break_what_is_merged_and_counters_follow_later():
    ksmd = scanned(host([1, 1, 1], [1]), 2)
    first, _ = ksmd.processes
    ksmd.write(first, [0], [-1])
    assert (ksmd.saved, ksmd.freed, ksmd.broken) == (3, 2, 1)
    assert scanned(ksmd, 1).saved == 2
    ksmd.leave(first)
    assert (ksmd.saved, ksmd.freed) == (2, 0)
    assert counters(scanned(ksmd, 1)) == (1, 0, 0, 0, 0)
    assert len(ksmd.processes) == 1


def test_memory_that_was_never_written_is_not_scanned():
    ksmd = scanned(host([NEVER] * 4 + [1, 1]), 2)
    assert ksmd.scanned == 4
    ksmd.write(ksmd.processes[0], [0, 1], [1, 2])
    assert counters(scanned(ksmd, 2)) == (1, 2, 1, 0, 0)


def test_unmerging_forgets_all():
    ksmd = scanned(host([1, 1, 0, 0, -1], use_zero_pages=1), 3)
    ksmd.set({"run": 2})
    assert counters(ksmd) == (0, 0, 0, 0, 0)
    assert (ksmd.full_scans, ksmd.freed) == (0, 0)
    ksmd.set({"run": 1})
    assert counters(scanned(ksmd, 2))[:3] == (1, 1, 1)


def test_knobs_are_those_of_the_kernel():
    ksmd = scanned(host([1, 1]), 2)
    with pytest.raises(ValueError, match="max_page_sharing can change only while"):
        ksmd.set({"max_page_sharing": 7})
    with pytest.raises(ValueError, match="unknown knobs: other"):
        ksmd.set({"other": 7})


# --- the same result, however it is cut into pieces -----------------------------------------------


def story(seed, piece, monkeypatch):
    """Random memory that comes, changes and goes; return counters after each scan."""
    monkeypatch.setattr(module, "CHUNK", piece)
    draw = random.Random(seed)
    ksmd = host(
        smart_scan=draw.randrange(2),
        max_page_sharing=draw.choice((2, 3, 256)),
        use_zero_pages=draw.randrange(2),
        stable_node_chains_prune_millisecs=draw.choice((0, 2**31)),
    )
    alone, found = -1, []
    for _ in range(25):
        contents = [draw.randrange(0, 12) for _ in range(draw.randrange(1, 40))]
        contents = [each if each < 9 else (alone := alone - 1) for each in contents]
        if draw.random() < 0.4 or not ksmd.processes:
            ksmd.arrive(contents)
        else:
            process = draw.choice(ksmd.processes)
            pages = draw.sample(range(process.size), min(process.size, len(contents)))
            ksmd.write(process, pages, contents[: len(pages)])
        if draw.random() < 0.2 and len(ksmd.processes) > 2:
            ksmd.leave(draw.choice(ksmd.processes))
        ksmd.scan()
        found.append(ksmd.counters())
        flags, frames = ksmd.flags[: ksmd.used], ksmd.frame[: ksmd.used]
        mapped = np.bincount(frames[(flags & module.MERGED) != 0], minlength=ksmd.frames)
        assert (mapped == ksmd.mapped[: ksmd.frames]).all()
        assert not ksmd.marked.any()
    return found


@pytest.mark.parametrize("seed", range(12))
def test_pages_one_by_one_or_all_at_once(seed, monkeypatch):
    """Pages that are handled alone take the ordered way; all at once, that of arrays."""
    assert story(seed, 1, monkeypatch) == story(seed, 2**19, monkeypatch)


@pytest.mark.parametrize("pages_to_scan", [1, 7, 10_000])
def test_time_passes_in_pieces_or_at_once(pages_to_scan):
    def after(pieces):
        ksmd = host([*range(300)], [*range(150), *range(-150, 0)], pages_to_scan=pages_to_scan)
        for _ in range(pieces):
            ksmd.advance(20 / pieces)
        return ksmd.full_scans, ksmd.scanned, ksmd.saved, round(ksmd.cpu, 9)

    assert after(1) == after(7) == after(1000)


def test_cpu_time_is_the_sum_of_what_happens_to_pages():
    ksmd = host([1, 1, -1])
    ksmd.costs = Costs(changed=1, merged=10, alone=100, merging=1000, skipped=0)
    spent = [round(scanned(ksmd, 1).cpu) for _ in range(3)]
    assert spent == [3, 3 + 2 * 100 + 1000, 1203 + 20 + 100]


# --- what the real ksmd has counted ---------------------------------------------------------------

BENCH = load(ROLES.parent / "bench/simulator.py")
# by `python -m bench simulator`, with --record, on Linux 6.18
KEPT = BENCH.kept(Path(__file__).parents[1] / "data/ksmd-6.18.json.gz")


@pytest.mark.parametrize(("case", "expected"), KEPT, ids=[f"{c.kind}-{c.number}" for c, _ in KEPT])
def test_all_counters_are_those_of_the_real_ksmd_after_each_scan(case, expected):
    assert BENCH.differences(case, expected, shape=True) == []


# --- the shape of the stable tree -----------------------------------------------------------------


def black_height(tree, node):
    """Return how many black nodes each way down from a node has, and check order and colours."""
    if node is tree.nil:
        return 0
    heights = [black_height(tree, child) for child in (node.left, node.right)]
    assert heights[0] == heights[1]
    assert not node.red or not (node.left.red or node.right.red)
    return heights[0] + (not node.red)


@pytest.mark.parametrize("seed", range(5))
def test_the_tree_stays_balanced_and_in_order(seed):
    draw, tree, there = random.Random(seed), Tree(lambda content: -content), set()
    for content in draw.choices(range(80), k=400):
        (tree.erase if content in there else tree.insert)(content)
        there ^= {content}
        black_height(tree, tree.root)
        for each in there:
            met = [*tree.path(-each)]
            assert met[-1] == each
            assert len(met) <= 2 * np.log2(len(there) + 1)


def test_a_chain_ends_when_a_search_meets_it_if_the_tree_has_its_shape():
    def left_over(key):
        ksmd = scanned(host([5] * 4 + [-1], max_page_sharing=2, key=key), 2)
        ksmd.write(ksmd.processes[0], [0, 1], [-2, -3])
        return [len(scanned(ksmd, 1).chains) for _ in range(2)]

    assert left_over(None) == [1, 1]  # nobody looks for that content any more
    assert left_over(lambda content: content) == [0, 0]  # page 4 meets it


# --- experiments ----------------------------------------------------------------------------------

ARRAYS = """\
knobs: [{run: 1, pages_to_scan: 1000, sleep_millisecs: 50}]
knobs_if_present: {smart_scan: 0, advisor_mode: none}
workloads:
  - {name: single, arrays: {change: single, second: 2, changed: 5}}
  - {name: half-same, arrays: {change: half-same, second: 2, changed: 5}}
  - {name: half-distinct, arrays: {change: half-distinct, second: 2, changed: 5}}
sampling: {interval: 1, intervals: 9, period: 0.25}
"""
# what the real kernel counts, as tests/host/test_arrays_counters.py has it
AFTERWARDS = {
    "single": (977, 976, 1),
    "half-same": (979, 974, 1),
    "half-distinct": (977, 488, 489),
}
COPIES = """\
processes:
  count: 4
  service: memory
  merge: madvise
  data_mib: 4
  contents: {equal_percent: 50, zero_percent: 10, write_percent: 1, rest_seconds: 1}
  arrivals: [0, 0, 5, 5]
  lifetimes: [30, 10, 30, 30]
knobs: [{run: 1, pages_to_scan: 200}]
policies:
  - none
  - governor
  - name: fast
    command: cd /sys/kernel/mm/ksm && echo 0 > smart_scan && echo 9000 > pages_to_scan
  - {name: mine, command: echo 5 > /sys/kernel/mm/ksm/sleep_millisecs && ksmtuned}
sampling: {interval: 1, intervals: 20, period: 0.25}
"""
ZEROS = "workloads: [{name: zeros, memory: {mib: 1, zero_percent: 100, equal_percent: 0}}]\n"


def simulated(directory, text, *more):
    """Simulate an experiment; return the directory of its results."""
    file = directory / "made.yml"
    file.write_text(text)
    assert main(["simulate", str(file), "--results", str(directory / "results"), *more]) == 0
    return directory / "results/made"


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_arrays_end_as_on_a_real_kernel(tmp_path):
    results = simulated(tmp_path, ARRAYS)
    for change, expected in AFTERWARDS.items():
        sample = lines(results / f"g00-k1-{change}-r1/samples.jsonl")[-2]
        assert tuple(sample["ksm"][name] for name in DONE[:3]) == expected
        assert sample["guests"]["arrays"]["ksm_rmap_items"] == 2 * 977


def test_runs_are_marked_as_simulated(tmp_path, capsys):
    results = simulated(tmp_path, COPIES, "--policies", "none,governor")
    assert main(["report", str(results), "--redact"]) == 0  # its host is no name
    page = (results / "report.html").read_text()
    assert '<span class="flag">Simulated: a model of ksmd of Linux 6.18' in page
    assert "all runs are simulated" in page
    assert "complete, simulated" in page
    capsys.readouterr()
    assert main(["summary", str(results), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["host"], row["simulated"]) for row in rows] == [("simulated", "yes")] * 2
    assert main(["compare", str(results), str(results), "--by", "knobs"]) == 0
    assert "all runs are simulated" in capsys.readouterr().err


def test_what_is_stale_is_not_counted_as_saved(tmp_path, monkeypatch):
    """Beside what the simulator knows, for copies that write and leave, and a policy that rests."""
    freed = []
    sample = simulate._sample
    monkeypatch.setattr(
        simulate, "_sample", lambda world: (freed.append(world.ksmd.freed), sample(world))[1]
    )
    results = simulated(tmp_path, COPIES, "--policies", "governor")
    run = read_run(next(results.glob("p004-*")))
    seconds, saved, limit = efficiency.over_time(run)
    area = np.trapezoid(limit, seconds)
    counters = run.samples["ksm.pages_sharing"] + run.samples["ksm.ksm_zero_pages"]
    assert np.trapezoid(counters - freed, seconds) / area > 0.2
    assert abs(np.trapezoid(saved - freed, seconds)) / area < 0.02


def test_copies_come_write_and_leave_and_the_governor_decides(tmp_path):
    results = simulated(tmp_path, COPIES, "--policies", "none,governor")
    fixed, governed = sorted(results.glob("p004-*"))
    decisions = [each for each in lines(governed / "policy.jsonl") if each["event"] == "decision"]
    assert decisions[0]["knobs"]["run"] == 1
    assert decisions[0]["reason"] == "start"
    for run in (fixed, governed):
        events = [(e["event"], e["process"]) for e in lines(run / "processes.jsonl")]
        assert events.count(("process left", "process-02")) == 1
        samples = lines(run / "samples.jsonl")[1:-1]
        assert "process-03" not in samples[0]["guests"]
        assert samples[-1]["guests"]["process-02"] is None
        assert samples[-1]["vmstat"]["cow_ksm"] > 0
    assert samples[-1]["ksm"]["run"] == 0  # it rests, and all is merged
    assert samples[-1]["ksm"]["pages_sharing"] > 1000


def test_kata_scans_hard_when_copies_come(tmp_path):
    text = COPIES.replace("  - governor\n", "  - kata\n")
    run = next(simulated(tmp_path, text, "--policies", "kata").glob("p004-*"))
    came = [each for each in lines(run / "policy.jsonl") if "came" in each.get("reason", "")]
    assert [round(each["monotonic"]) for each in came] == [0, 5]
    assert {each["reason"].partition(" and 1 more came: ")[2] for each in came} == {"aggressive"}
    tenth = 2 * 4 * 256 // 10  # of two copies, then of four
    assert came[0]["knobs"] == {"run": 1, "pages_to_scan": tenth, "sleep_millisecs": 1}
    assert came[1]["knobs"]["pages_to_scan"] == pytest.approx(2 * tenth, abs=1)


FREE = """\
processes: {count: 5, service: memory, merge: madvise, data_mib: 64, arrivals: [0, 0, 5, 5, 5]}
policies:
  - {ksmtuned: {KSM_MONITOR_INTERVAL: 1, KSM_NPAGES_MAX: 9000}}
  - {kubevirt: {interval: 1, sleep_ms_baseline: 10, pages_boost: 900, pages_max: 9000}}
sampling: {interval: 1, intervals: 20, period: 0.5}
"""


def test_ksmtuned_and_kubevirt_scan_while_memory_is_short(tmp_path):
    """A GiB, half of it the kernel's: less than a fifth is free with five of 64 MiB."""
    results = simulated(tmp_path, FREE, "--host-memory-mib", "1024")
    for run in sorted(results.glob("p005-*")):
        told = [each for each in lines(run / "policy.jsonl") if each["event"] == "decision"]
        knobs = [(each["monotonic"], each["knobs"]) for each in told]
        assert {at >= 5 for at, each in knobs if each["run"] == 1} == {True}
        first, second = [each for at, each in knobs if at >= 5][:2]
        assert first["pages_to_scan"] < second["pages_to_scan"]
        assert 150 < first["sleep_millisecs"] < 220  # as on a host of 16 GiB, 10
        assert lines(run / "samples.jsonl")[-2]["ksm"]["pages_sharing"] > 0
        assert json.loads((run / "run.json").read_text())["simulated"]["memory_mib"] == 1024


def test_a_host_whose_memory_is_too_small(tmp_path, capsys):
    file = tmp_path / "made.yml"
    file.write_text(FREE.replace("data_mib: 64", "data_mib: 128"))
    assert main(["simulate", str(file), "--host-memory-mib", "1024"]) == 2
    assert "its memory is 1,152 MiB, and the host has 1,024" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["simulate", str(file), "--host-memory-mib", "1 GiB"])
    assert "must be a whole number of MiB from 1024" in capsys.readouterr().err


def test_the_advisor_is_that_of_the_kernel(tmp_path):
    """What it set is what the formula says of the samples, as it does of runs of a real kernel."""
    results = simulated(
        tmp_path,
        "processes: {count: 1, service: memory, merge: madvise, data_mib: 128}\n"
        "policies: [{advisor: {target_scan_time: 4}}]\n"
        "sampling: {interval: 1, intervals: 6, period: 0.02}\n",
    )
    # the first scans are short, and end between two samples
    seen = advisor.replay(read_run(next(results.glob("p001-*"))))[3:]
    assert len({each.pages_to_scan for each in seen}) > 3
    assert all(low <= each.pages_to_scan <= high for each in seen for low, high in [each.predicted])


@pytest.mark.parametrize(("pages_to_scan", "batches"), [(10, 10), (30, 4), (1000, 1)])
def test_a_batch_costs_more_only_if_it_does_more_than_pass_merged_pages(pages_to_scan, batches):
    ksmd = Ksmd(wake=1e-3)
    ksmd.set({"run": 1, "smart_scan": 0, "pages_to_scan": pages_to_scan})
    ksmd.arrive([*range(1, 51)] * 2)

    def scan():
        before, scans = ksmd.cpu, ksmd.full_scans
        while ksmd.full_scans == scans:
            ksmd.advance(0.02)
        return ksmd.cpu - before

    first, second, merged, _ = (scan() for _ in range(4))
    assert first == pytest.approx(100 * Costs().changed + batches * 1e-3)
    assert second == pytest.approx(50 * (Costs().alone + Costs().merging) + batches * 1e-3)
    assert merged == pytest.approx(100 * Costs().merged)
    ksmd.arrive([-1])
    assert scan() == pytest.approx(100 * Costs().merged + Costs().changed + 1e-3)


def test_a_policy_that_only_sets_knobs(tmp_path):
    results = simulated(tmp_path, COPIES, "--policies", "none,fast")
    fixed, fast = sorted(results.glob("p004-*"))
    last = [lines(run / "samples.jsonl")[-2]["ksm"] for run in (fixed, fast)]
    assert [ksm["smart_scan"] for ksm in last] == [1, 0]
    assert last[1]["full_scans"] > last[0]["full_scans"]


def test_time_passes_without_sleep_where_there_is_nothing_to_scan(tmp_path):
    knobs = "knobs: [{run: 1, sleep_millisecs: 0, use_zero_pages: 1}]\n"
    sampling = "sampling: {interval: 1, intervals: 1}\n"
    (run,) = simulated(tmp_path, ZEROS + knobs + sampling).glob("*/samples.jsonl")
    assert lines(run)[-2]["ksm"]["ksm_zero_pages"] == 256


def test_results_that_cannot_be_written(tmp_path, capsys):
    file = tmp_path / "made.yml"
    file.write_text(ARRAYS)
    assert main(["simulate", str(file), "--results", str(file)]) == 2
    assert f"{file}" in capsys.readouterr().err


def test_earlier_results_are_kept(tmp_path):
    simulated(tmp_path, ARRAYS)
    simulated(tmp_path, ARRAYS)
    assert len([*(tmp_path / "results").iterdir()]) == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("guests: {count: 2}", "guests: cannot be simulated: the contents of their memory"),
        ("processes: {count: 2, service: redis}", "processes: redis: cannot be simulated"),
        ("processes: {count: 2, service: memory}\nthp: [{enabled: always}]", "thp.enabled: cannot"),
        ("processes: {count: 2, service: memory}\nknobs: [{merge_across_nodes: 0}]", "knobs.merge"),
        ("processes: {count: 2, service: memory}\nstop: {steady: {seconds: 1}}", "stop: cannot"),
        (COPIES, "policies: mine: cannot be simulated: it is not simulated. Allowed: none, a"),
        ("workloads: [{name: a, write_probe: {}}]", "write_probe: cannot be simulated"),
        ("processes: {count: 999, service: memory, data_mib: 65536}", "pages need about"),
        (ZEROS + "knobs: [{run: 1, pages_to_scan: abc}]", "knobs.pages_to_scan: cannot be simul"),
        (ZEROS + "knobs: [{run: 1, max_page_sharing: 1}]", "refuses 1. Allowed: 2 to 2147483647"),
        (ZEROS + "knobs: [{run: 1}]\nknobs_if_present: {smart_scan: 7}", "Allowed: 0 to 1"),
        (ZEROS + "policies: [{name: mine, command: echo 5 > run}]", "policies: mine: cannot"),
    ],
)
def test_what_cannot_be_simulated_is_named_before_anything_starts(text, expected, tmp_path, capsys):
    file = tmp_path / "made.yml"
    more = "" if "sampling" in text else "\nsampling: {interval: 1, intervals: 4}"
    file.write_text(text + more)
    assert main(["simulate", str(file), "--results", str(tmp_path / "results")]) == 2
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


def test_without_the_roles_nothing_is_written(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(programs, "ROLES", tmp_path)
    programs.program.cache_clear()
    file = tmp_path / "made.yml"
    file.write_text(ARRAYS)
    assert main(["simulate", str(file), "--results", str(tmp_path / "results")]) == 2
    assert "use it from a clone of the repository" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


def test_a_policy_that_is_not_in_the_file(tmp_path, capsys):
    file = tmp_path / "made.yml"
    file.write_text(COPIES)
    assert main(["simulate", str(file), "--policies", "kata"]) == 2
    assert (
        "no such policy in the file. There are: none, governor, fast, mine"
        in capsys.readouterr().err
    )
