"""When the observations of 2024 hold, do not hold, or are not tested."""

import itertools

import numpy as np
import pytest
from made_up_runs import PAGE, Writer, events, run_record, sample_lines
from scipy import stats

from ksm_analysis.analysis import observations
from ksm_analysis.metrics import measurement
from ksm_analysis.results.reader import read_run

HOLDS, FAILS, UNTESTED = "holds", "does not hold", "not tested here"
MIB = 2**20
GUEST_PAGES = 512 * 256
SLOW, FAST = {"pages_to_scan": 100}, {"pages_to_scan": 1_000}
LATE, SOON = [0] * 8 + [1_000] * 9, [0] * 4 + [1_000] * 13


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """Write a run of 17 samples, four per interval, and measure it; equal runs are cached.

    `ksm` has counters: one number, or one for each sample, or None if the kernel lacks it. `cpu` is
    the CPU time of ksmd in seconds, and `busy` the CPU use of the host in percent. `options` are
    those of stress-ng, which runs for the first half or until `stop`.
    """
    write_run, known = Writer(tmp_path_factory.mktemp("results")), {}

    def make(**asked):
        key = repr(sorted(asked.items()))
        known[key] = known.get(key) or measured(**asked)
        return known[key]

    def measured(
        *,
        ksm=None,
        cpu=0.8,
        busy=None,
        options=None,
        stop=None,
        knobs=None,
        workload="idle",
        **factors,
    ):
        record = run_record(guests=factors.pop("guests", 1), workload=workload, **factors)
        run = record["run"]
        run["id"] = f"run-{len(known)}"
        run["knobs"] = {"run": 1, "sleep_millisecs": 20, "pages_to_scan": 100, **(knobs or {})}
        run["factors"]["knobs"] = ", ".join(f"{k}={v}" for k, v in run["knobs"].items())
        for part in run["workload"]["parts"]:
            part |= {"stress_ng": {"vm": 1, **(options or {})}, "stop": stop or part["stop"]}
        lines = sample_lines(record)
        for line in lines[1:-1]:
            n = line["n"]
            for name, value in (ksm or {}).items():
                line["ksm"][name] = value if np.ndim(value) == 0 else value[n]
                if value is None:
                    del line["ksm"][name]
            line["guests"] = {}  # no check looks at what a guest's process counts
            line["ksmd"] = {"cpu_ns": None if cpu is None else round(5e9 + cpu * 1e9 * n / 16)}
            if busy is not None:
                line["cpu"] |= dict.fromkeys(line["cpu"], 0)
                line["cpu"] |= {"user": round(100 * busy * n), "idle": round(1e4 - 100 * busy) * n}
        return measurement.measure(read_run(write_run(record, lines, events(record)), keep=False))

    return make


@pytest.fixture
def imported(write_run):
    """Write a run of four intervals of 1 s like an imported log, and measure it."""
    number = itertools.count()

    def imported(command, *, sharing=1_000, profit=1_000, **knobs):
        record = run_record(guests=1, imported={"cut_short": None})
        record |= {"host": "imported", "provenance": {"page_size": PAGE}}
        knobs = {"run": 1, "pages_to_scan": 100, "sleep_millisecs": 20, **knobs}
        record["knobs"] = {"before": {}, "during": knobs, "after": {}}
        run = record["run"]
        run |= {"id": f"log-{next(number)}", "knobs": {}, "knobs_if_present": {}}
        label = ", ".join(f"{k}={v}" for k, v in knobs.items() if (k, v) != ("run", 1))
        run["factors"] |= {"workload": command or "idle", "knobs": label}
        run["workload"] = {"name": command or "idle", "parts": []}
        run["sampling"] |= {"period": 1.0, "samples": 4}
        lines = [{"kind": "header", "format": 1, "wall": None, "monotonic": 0.0, "page_size": PAGE}]
        lines += [
            {
                "kind": "sample",
                "n": n,
                "monotonic": float(n),
                "ksm": {
                    "full_scans": 5 * n,
                    "pages_shared": 10,
                    "pages_sharing": sharing if np.ndim(sharing) == 0 else sharing[n - 1],
                    "general_profit": profit if np.ndim(profit) == 0 else profit[n - 1],
                },
                "original": {"average_cpu_usage": 2.0},
                "guests": {"vm-1": {"ksm_rmap_items": 50, "ksm_merging_pages": 30}},
            }
            for n in (1, 2, 3, 4)
        ]
        lines += [{"kind": "end", "samples": 4, "missed": 0, "reason": "finished", "gone": {}}]
        return measurement.measure(read_run(write_run(record, lines, happened=[])))

    return imported


PAIRED = ("faster-scan", "after-workload", "mergeable", "vm-hang", "flattens", "sampling-cost")


def check(name, measured, times=3):
    """Check runs as if each had been repeated three times, because fewer are inconclusive."""
    once = all(each.run.factors["repetition"] == 1 for each in measured)
    measured = measured * (times if once and name in PAIRED else 1)
    (found,) = (each for each in observations.checks(measured) if each.name == name)
    return found


def verdict(name, measured):
    return check(name, measured).verdict


def change(pairs):
    """Format the mean relative difference over pairs, and its interval, computed with scipy."""
    each = [2 * (b - a) / (a + b) for a, b in pairs]
    low, high = stats.t.interval(0.95, len(each) - 1, np.mean(each), stats.sem(each))
    return f"{np.mean(each):+.0%} ({low:+.0%} to {high:+.0%}) over {len(each)} pairs"


# --- all of them ----------------------------------------------------------------------------------


def percents(make, *shared, **other):
    """Runs of 1, 2, … guests that merge so many percent of their memory, a fifth of it kept."""
    return [
        make(
            guests=count,
            ksm={
                "pages_shared": round(0.2 * percent / 100 * GUEST_PAGES * count),
                "pages_sharing": round(0.8 * percent / 100 * GUEST_PAGES * count),
            },
            **other,
        )
        for count, percent in enumerate(shared, start=1)
    ]


def two_rates(make, slow=LATE, fast=SOON, cpu=(0.4, 0.8), **other):
    """Runs of two scan rates with all else equal."""
    return [
        make(knobs=knobs, ksm={"pages_sharing": sharing}, cpu=seconds, **other)
        for knobs, sharing, seconds in zip((SLOW, FAST), (slow, fast), cpu, strict=True)
    ]


def growing(count, repetition=1):
    return {
        "guests": count,
        "repetition": repetition,
        "ksm": dict.fromkeys(("pages_shared", "pages_sharing", "general_profit"), 100 * count),
    }


def advised(make, mergeable, unmergeable, **other):
    """Runs with either advice that end with so many pages_sharing."""
    return [
        make(workload="vm", options={"vm_madvise": advice}, ksm={"pages_sharing": pages}, **other)
        for advice, pages in (("mergeable", mergeable), ("unmergeable", unmergeable))
    ]


def profit(early, late=0):
    """Make general_profit of the first half, whose intervals end at samples 4 and 8, and after."""
    return {"general_profit": [early * MIB] * 9 + [late * MIB] * 8}


def hanging(make, without, with_it, **other):
    """Runs without vm_hang and with it, of so many MiB of profit in the first half."""
    return [
        make(workload="vm", options=options, ksm=profit(mib), **other)
        for options, mib in (({}, without), ({"vm_hang": 10}, with_it))
    ]


def halves(during, after):
    """Make pages_sharing during the workload, which lasts until sample 8, and after it."""
    return {"pages_sharing": [during] * 9 + [after] * 8}


def two_periods(make, often=5.5, seldom=5.0, **other):
    """Runs that are sampled each quarter of a second, and each 15 s."""
    return [make(busy=often, **other), make(busy=seldom, interval=60.0, **other)]


HOLDING = {
    "grows-with-guests": lambda make: [make(**growing(count)) for count in (1, 2, 3, 4)],
    "faster-scan": two_rates,
    "after-workload": lambda make: [make(workload="stress", ksm=halves(100, 300))],
    "mergeable": lambda make: advised(make, 1_000, 1_000),
    "vm-hang": lambda make: hanging(make, 10, 20),
    "flattens": lambda make: percents(make, 10, 20, 25, 28),
    "sampling-cost": two_periods,
}


def test_every_observation_is_always_checked():
    found = observations.checks([])

    assert [each.name for each in found] == list(HOLDING)
    assert {each.verdict for each in found} == {UNTESTED}
    assert all(each.claim and each.evidence for each in found)


@pytest.mark.parametrize("name", HOLDING)
def test_an_observation_that_holds(make, name):
    assert verdict(name, HOLDING[name](make)) == HOLDS


@pytest.mark.parametrize("name", HOLDING)
def test_runs_with_ksm_off_are_no_evidence(make, name):
    def make_off(knobs=None, **other):
        return make(knobs={**(knobs or {}), "run": 0}, **other)

    assert verdict(name, HOLDING[name](make_off)) == UNTESTED


# --- growing with the guests ----------------------------------------------------------------------


def grown(make, *rows):
    """Runs of 1, 2, … guests; each row has the values of the repetitions of one number."""
    return [
        make(**growing(value, repetition) | {"guests": guests})
        for guests, row in enumerate(rows, start=1)
        for repetition, value in enumerate(row, start=1)
    ]


def test_savings_grow_with_the_guests(make):
    found = check("grows-with-guests", grown(make, (1, 1.1), (2, 2.1), (3, 3.1)))

    assert found.verdict == HOLDS
    assert found.evidence.endswith(
        "3 of 3 series rise, 0 fall, and the others are not decided yet."
    )


def test_savings_that_fall_with_the_guests_contradict(make):
    assert verdict("grows-with-guests", grown(make, (3, 3.1), (2, 2.1), (1, 1.1))) == FAILS


@pytest.mark.parametrize(
    "rows",
    [((1,), (2,), (3,)), ((1, 3), (2.9, 2.9)), ((2, 2), (2, 2))],
    ids=["three runs", "scatter", "no change"],
)
def test_growth_that_is_not_decided(make, rows):
    assert verdict("grows-with-guests", grown(make, *rows)) == UNTESTED


def rates(growth, times=1_000, guests=5, repetitions=3, scatter=0.10):
    """Simulate three independent metrics that grow by a share for each guest.

    Return the shares of experiments in which all rise, and in which any falls.
    """
    random = np.random.default_rng(1)
    x = np.repeat(np.arange(guests), repetitions)
    rises = falls = 0
    for _ in range(times):
        series = (1 + growth) ** x * (1 + scatter * random.standard_normal((3, len(x))))
        bounds = [observations.slope([*zip(x, y, strict=True)], 0.05 / len(series)) for y in series]
        rises += all(low > 0 for low, _ in bounds)
        falls += any(high < 0 for _, high in bounds)
    return rises / times, falls / times


def test_noise_tells_nothing_and_growth_is_found():
    rises, falls = rates(0)
    assert rises <= 0.005
    assert falls <= 0.05
    rises, falls = rates(0.20)
    assert rises >= 0.95
    assert falls == 0


@pytest.mark.parametrize(
    "others",
    [
        {},
        {"guests": 2, "host": "beta"},
        {"guests": 2, "workload": "stress"},
        {"guests": 2, "knobs": FAST},
        {"guests": 0},
    ],
    ids=["one number", "another host", "another workload", "other knobs", "no guests"],
)
def test_growth_needs_two_numbers_of_guests_with_all_else_equal(make, others):
    found = check("grows-with-guests", [make(), make(repetition=2, **others)])

    assert found.verdict == UNTESTED
    assert found.evidence.startswith("Needs at least two numbers of guests")


# --- a faster scan --------------------------------------------------------------------------------


def test_a_faster_scan_is_earlier_and_costs_more_with_the_same_end(make):
    found = check("faster-scan", two_rates(make))

    # 2 s against 1 s, and 0.4 s against 0.8 s: a difference of 1 to a mean of 1.5
    assert found.verdict == HOLDS
    assert found.evidence == (
        "Fastest against slowest rate, all else equal: time to 95 % with the slower rate +67% in "
        "1 pair (+67% to +67%); CPU time of ksmd with the faster one +67% in 1 pair (+67% to "
        "+67%); savings at the end +0% in 1 pair (+0% to +0%)."
    )


def test_several_pairs_are_judged_by_their_interval(make):
    costs = {1: (0.4, 0.8), 2: (0.45, 0.8), 3: (0.5, 0.8)}
    runs = [run for guests, cpu in costs.items() for run in two_rates(make, cpu=cpu, guests=guests)]
    found = check("faster-scan", runs)

    assert found.verdict == HOLDS
    assert f"CPU time of ksmd with the faster one {change(costs.values())};" in found.evidence


def test_a_part_that_does_not_hold_is_enough(make):
    cheaper = check("faster-scan", two_rates(make, cpu=(0.8, 0.4)))
    later = check("faster-scan", two_rates(make, slow=SOON, fast=LATE))

    assert cheaper.verdict == FAILS
    assert "with the faster one -67% in 1 pair" in cheaper.evidence
    assert later.verdict == FAILS
    assert "with the slower rate -67% in 1 pair" in later.evidence


def test_ends_that_differ_in_every_pair_are_not_the_same(make):
    more = [0] * 4 + [1_500] * 13
    runs = [run for guests in (1, 2) for run in two_rates(make, fast=more, guests=guests)]
    found = check("faster-scan", runs)

    assert found.verdict == FAILS
    assert "savings at the end +40% (+40% to +40%) over 2 pairs." in found.evidence


def test_an_uncertain_part_leaves_the_observation_open(make):
    found = check("faster-scan", two_rates(make, fast=[0] * 4 + [1_500] * 13), times=1)

    assert found.verdict == UNTESTED
    assert "+40% in 1 pair (not decided yet: more runs are needed)" in found.evidence


def test_overlapping_costs_are_inconclusive(make):
    runs = [
        run
        for repetition, cpu in ((1, (0.4, 0.5)), (2, (0.7, 0.8)))
        for run in two_rates(make, cpu=cpu, repetition=repetition)
    ]
    found = check("faster-scan", runs)

    assert found.verdict == UNTESTED
    assert (
        "the faster one +17% in 1 pair (not decided yet: more runs are needed);" in found.evidence
    )


def test_scattered_costs_are_inconclusive(make):
    costs = {1: (0.4, 0.8), 2: (0.8, 0.6)}
    runs = [run for guests, cpu in costs.items() for run in two_rates(make, cpu=cpu, guests=guests)]

    assert verdict("faster-scan", runs) == UNTESTED


def test_a_workload_that_ends_after_merging_does_not_test_the_time(make):
    # else this would contradict
    runs = two_rates(make, slow=SOON, fast=LATE, workload="stress")
    found = check("faster-scan", runs)

    assert found.verdict == HOLDS
    assert "time to 95 %" not in found.evidence


def test_the_fastest_is_compared_with_the_slowest(make):
    between = make(knobs={"pages_to_scan": 500}, ksm={"pages_sharing": 1}, cpu=9.0)

    assert verdict("faster-scan", [*two_rates(make), between]) == HOLDS


def test_ten_times_as_long_a_sleep_is_a_tenth_of_the_rate(make):
    slower = {"pages_to_scan": 1_000, "sleep_millisecs": 200}
    same = [
        make(knobs=SLOW, ksm={"pages_sharing": LATE}, cpu=0.4),
        make(knobs=slower, ksm={"pages_sharing": LATE}, cpu=0.4),
    ]

    assert verdict("faster-scan", same) == UNTESTED
    assert verdict("faster-scan", [*same, make(knobs=FAST, ksm={"pages_sharing": SOON})]) == HOLDS


@pytest.mark.parametrize(
    "other",
    [
        {"knobs": SLOW},
        {"knobs": {"pages_to_scan": 1_000, "sleep_millisecs": 0}},
        {"knobs": {**FAST, "use_zero_pages": 1}},
        {"knobs": FAST, "guests": 2},
        {"knobs": FAST, "host": "beta"},
        {"knobs": FAST, "interval": 2.0},
    ],
    ids=["one rate", "no sleep", "other knobs", "other guests", "another host", "longer"],
)
def test_a_faster_scan_needs_two_rates_with_all_else_equal(make, other):
    found = check("faster-scan", [make(knobs=SLOW), make(**other)])

    assert found.verdict == UNTESTED
    assert found.evidence.startswith("Needs two scan rates with all else equal")


def test_a_faster_scan_is_tested_with_logs(imported):
    runs = [
        imported("", sharing=[0, 500, 1_000, 1_000], **SLOW),
        imported("", sharing=[0, 990, 1_000, 1_000], **FAST),
    ]

    assert verdict("faster-scan", runs) == HOLDS


# --- after the workload ---------------------------------------------------------------------------


def test_sharing_is_higher_after_the_workload(make):
    found = check("after-workload", [make(workload="stress", ksm=halves(100, 300))])

    assert found.verdict == HOLDS
    assert found.evidence == (
        "Savings in the last quarter of the time after the workload, against the last quarter of "
        "the time during it: +100% in 1 pair (+100% to +100%); 100 pages during and "
        "300 after it, on average."
    )


def test_sharing_is_lower_after_the_workload(make):
    found = check("after-workload", [make(workload="stress", ksm=halves(300, 100))])

    assert found.verdict == FAILS
    assert "-100% in 1 pair (-100% to -100%); 300 pages during and 100 after it" in found.evidence


def test_workloads_are_judged_by_the_interval_over_cells(make):
    pairs = [(100, 300), (100, 250), (100, 280)]
    runs = [
        make(workload="stress", guests=guests, ksm=halves(*pair))
        for guests, pair in enumerate(pairs, start=1)
    ]
    found = check("after-workload", runs)

    assert found.verdict == HOLDS
    assert f"the time during it: {change(pairs)}; 100 pages" in found.evidence
    # one that falls makes it uncertain
    fallen = make(workload="stress", guests=4, ksm=halves(300, 100))
    assert verdict("after-workload", [*runs, fallen]) == UNTESTED


def test_overlapping_repetitions_of_workloads_are_inconclusive(make):
    runs = [
        make(workload="stress", repetition=number, ksm=halves(*pair))
        for number, pair in enumerate([(100, 150), (300, 350)], start=1)
    ]
    found = check("after-workload", runs)

    assert found.verdict == UNTESTED
    assert "+22% in 1 pair (not decided yet: more runs are needed); 200 pages" in found.evidence


@pytest.mark.parametrize("other", [{"workload": "idle"}, {"stop": 4.0}], ids=["idle", "busy"])
def test_after_the_workload_needs_a_workload_that_ends_before_its_run(make, other):
    found = check("after-workload", [make(**{"workload": "stress", **other})])

    assert found.verdict == UNTESTED
    assert found.evidence.startswith("Needs a workload that ends before its run does")


# --- advice ---------------------------------------------------------------------------------------


def test_advice_changes_nothing(make):
    found = check("mergeable", advised(make, 1_050, 1_000))

    assert found.verdict == HOLDS
    assert found.evidence == (
        "Final savings with mergeable against unmergeable: +5% in 1 pair (+5% to +5%). "
        "Up to 10% counts as the same."
    )
    assert "<nosharepages/>" in found.note


def test_advice_that_changes_sharing_in_every_pair(make):
    pairs = [(1_000, 1_500), (1_000, 1_600), (1_000, 1_400)]
    runs = [
        run
        for guests, (unmergeable, mergeable) in enumerate(pairs, start=1)
        for run in advised(make, mergeable, unmergeable, guests=guests)
    ]
    found = check("mergeable", runs)

    assert found.verdict == FAILS
    assert f"against unmergeable: {change(pairs)}. Up to" in found.evidence


def test_advice_that_changes_a_single_pair_is_inconclusive(make):
    found = check("mergeable", advised(make, 1_500, 1_000), times=1)

    assert found.verdict == UNTESTED
    assert "+40% in 1 pair (not decided yet: more runs are needed)." in found.evidence


def test_pairs_that_scatter_beyond_a_tenth_do_not_show_that_advice_changes_nothing(make):
    runs = advised(make, 1_300, 1_000) + advised(make, 1_000, 1_300, guests=2)

    assert verdict("mergeable", runs) == UNTESTED


def test_repetitions_of_advice_are_averaged(make):
    # 1,000 on average with either
    runs = [
        run
        for repetition, pages in enumerate((990, 1_000, 1_010), start=1)
        for run in advised(make, pages, 1_000, repetition=repetition)
    ]

    assert verdict("mergeable", runs) == HOLDS
    assert verdict("mergeable", runs[:4]) == UNTESTED  # two runs a side are too few


@pytest.mark.parametrize(
    ("options", "other"),
    [
        ({"vm_madvise": "mergeable"}, {}),
        ({}, {}),
        ({"vm_madvise": "unmergeable", "vm": 2}, {}),
        ({"vm_madvise": "unmergeable"}, {"knobs": FAST}),
        ({"vm_madvise": "unmergeable"}, {"guests": 2}),
        ({"vm_madvise": "unmergeable"}, {"interval": 2.0}),
    ],
    ids=["one advice", "none", "other options", "other knobs", "other guests", "longer"],
)
def test_advice_needs_both_values_with_all_else_equal(make, options, other):
    runs = [make(workload="a", options={"vm_madvise": "mergeable"})]
    found = check("mergeable", [*runs, make(workload="b", options=options, **other)])

    assert found.verdict == UNTESTED
    assert found.evidence.startswith("Needs stress-ng with vm_madvise mergeable and unmergeable")


@pytest.mark.parametrize(
    ("mergeable", "unmergeable"),
    [
        ("stress-ng --vm 2 --vm-madvise mergeable", "stress-ng --vm 2 --vm-madvise unmergeable"),
        ("stress-ng --vm-madvise=mergeable -t 60", "stress-ng --vm-madvise=unmergeable -t 60"),
        ('stress-ng --vm-madvise "mergeable"', 'stress-ng --vm-madvise "unmergeable"'),
    ],
)
def test_advice_is_found_in_the_commands_of_logs(imported, mergeable, unmergeable):
    found = check("mergeable", [imported(mergeable), imported(unmergeable, sharing=1_020)])

    assert found.verdict == HOLDS
    assert "-2% in 1 pair" in found.evidence


def test_commands_that_differ_in_more_than_the_advice_are_not_compared(imported):
    commands = "--vm 1 --vm-madvise mergeable", "--vm 2 --vm-madvise unmergeable"

    assert verdict("mergeable", [imported(f"stress-ng {each}") for each in commands]) == UNTESTED


def test_logs_of_other_knobs_are_not_compared(imported):
    runs = [
        imported("stress-ng --vm-madvise mergeable", **SLOW),
        imported("stress-ng --vm-madvise unmergeable", **FAST),
    ]

    assert verdict("mergeable", runs) == UNTESTED


def test_idle_guests_share_no_more_when_no_workload_stops(make):
    # merging has but begun in the first half, and has come to rest in the second
    risen = [min(300, 60 * n) for n in range(17)]
    runs = [make(workload="stress", guests=n, ksm={"pages_sharing": risen}) for n in (1, 2, 3)]

    assert verdict("after-workload", runs) != HOLDS


@pytest.mark.parametrize("name", PAIRED)
def test_one_run_per_side_is_inconclusive(make, name):
    pairs = {
        "faster-scan": two_rates(make),
        "after-workload": [make(workload="stress", ksm=halves(100, 300))],
        "mergeable": advised(make, 1_000, 1_000),
        "vm-hang": hanging(make, 10, 30),
        "flattens": percents(make, 10, 20, 25, 28),
        "sampling-cost": two_periods(make),
    }

    assert check(name, pairs[name], times=1).verdict == UNTESTED


@pytest.mark.parametrize(
    "values", [(10, 20, 30, 39.99), (50, 45, 39, 30)], ids=["hardly flatter", "falls faster"]
)
def test_a_little_less_is_not_flat_and_neither_is_a_fall(make, values):
    assert verdict("flattens", percents(make, *values)) == FAILS


# --- holding memory -------------------------------------------------------------------------------


def test_holding_memory_raises_the_profit_of_the_first_half(make):
    found = check("vm-hang", hanging(make, 10, 30))

    assert found.verdict == HOLDS
    assert found.evidence == (
        "Mean general_profit in the first half, with vm_hang against without: +100% in 1 pair "
        "(+100% to +100%); 30 MiB with vm_hang and 10 MiB without, on average."
    )


def test_holding_memory_lowers_the_profit_of_the_first_half(make):
    found = check("vm-hang", hanging(make, 30, 10))

    assert found.verdict == FAILS
    assert (
        "-100% in 1 pair (-100% to -100%); 10 MiB with vm_hang and 30 MiB without" in found.evidence
    )


def test_profit_of_the_second_half_does_not_count(make):
    runs = [
        make(workload="vm", ksm=profit(10, late=900)),
        make(workload="vm", options={"vm_hang": 10}, ksm=profit(20, late=-900)),
    ]

    assert verdict("vm-hang", runs) == HOLDS


def test_a_loss_that_becomes_a_gain_is_a_rise(make):
    found = check("vm-hang", hanging(make, -10, 10))

    assert found.verdict == HOLDS
    assert (
        "+200% in 1 pair (+200% to +200%); 10 MiB with vm_hang and -10 MiB without"
        in found.evidence
    )


def test_overlapping_profits_are_inconclusive(make):
    runs = hanging(make, 10, 20) + hanging(make, 40, 50, repetition=2)
    found = check("vm-hang", runs)

    assert found.verdict == UNTESTED
    assert "+33% in 1 pair (not decided yet: more runs are needed); 35 MiB" in found.evidence


def test_profits_of_repetitions_that_do_not_overlap_differ(make):
    runs = hanging(make, 10, 20) + hanging(make, 10.1, 20.1, repetition=2)
    runs += hanging(make, 9.9, 19.9, repetition=3)

    assert verdict("vm-hang", runs) == HOLDS
    assert verdict("vm-hang", hanging(make, 20, 10, guests=2) + runs) == UNTESTED


@pytest.mark.parametrize(
    "other",
    [
        {"options": {"vm_hang": 5}},
        {"workload": "idle"},
        {"options": {"vm": 2}},
        {"knobs": FAST},
        {"host": "beta"},
        {"ksm": {"general_profit": None}},
    ],
    ids=["both hang", "idle", "other options", "other knobs", "another host", "older kernel"],
)
def test_holding_memory_needs_both_with_all_else_equal(make, other):
    runs = [make(workload="vm", options={"vm_hang": 10}), make(**{"workload": "vm", **other})]
    found = check("vm-hang", runs)

    assert found.verdict == UNTESTED
    assert found.evidence.startswith("Needs stress-ng with and without vm_hang")


def test_holding_memory_is_found_in_the_commands_of_logs(imported):
    runs = [
        imported("stress-ng --vm 2 --vm-bytes 80%", profit=10 * MIB),
        imported("stress-ng --vm 2 --vm-hang 10 --vm-bytes 80%", profit=30 * MIB),
    ]
    found = check("vm-hang", runs)

    assert found.verdict == HOLDS
    assert "30 MiB with vm_hang and 10 MiB without" in found.evidence


def test_an_idle_log_is_not_compared_with_one_with_vm_hang(imported):
    runs = [imported("", profit=MIB), imported("stress-ng --vm-hang 10", profit=2 * MIB)]

    assert verdict("vm-hang", runs) == UNTESTED


# --- flattening -----------------------------------------------------------------------------------


def test_percentages_flatten_with_the_guests(make):
    found = check("flattens", percents(make, 10, 20, 25, 28))

    # to three guests and from there on: (25 - 10) / 2, then 28 - 25; four fifths of it reclaimed
    assert found.verdict == HOLDS
    knobs = "run=1, sleep_millisecs=20, pages_to_scan=100"
    assert found.evidence == (
        "Percentage points for each further guest, in the first half of the numbers of guests, "
        "then in the second half. The second value must be at most half of the first: "
        f"shared +7.50, then +3.00 (idle · {knobs}); "
        f"reclaimed +6.00, then +2.40 (idle · {knobs})."
    )


def test_percentages_that_get_steeper(make):
    found = check("flattens", percents(make, 10, 11, 14, 24))

    assert found.verdict == FAILS
    assert "shared +2.00, then +10.00" in found.evidence


def test_percentages_of_repetitions_are_averaged(make):
    # 26 % with four guests by itself would be steeper
    steep, less = percents(make, 10, 15, 20, 26), (20, 20.1)
    more = [
        run
        for repetition, percent in enumerate(less, start=2)
        for run in percents(make, 10, 15, 20, percent, repetition=repetition)
    ]

    assert verdict("flattens", steep) == FAILS
    found = check("flattens", steep + more)
    assert found.verdict == UNTESTED
    assert "shared +5.00, then +2.03 (not decided yet: more runs are needed)" in found.evidence


def test_percentages_that_scatter_little_decide(make):
    runs = [
        run
        for repetition, apart in enumerate((-0.1, 0, 0.1), start=1)
        for run in percents(make, 10, 20 + apart, 25, 28 - apart, repetition=repetition)
    ]

    assert verdict("flattens", runs) == HOLDS
    assert verdict("flattens", runs[:8]) == UNTESTED, "two runs of each are too few"


def test_noise_neither_flattens_nor_does_it_not():
    """Four numbers of guests, three runs each; the interval is right in 95 % of the cases."""
    random, times = np.random.default_rng(1), 2_000
    weights = np.array([-0.25, 0.75, -0.5])
    inside = 0
    for _ in range(times):
        groups = [list(random.normal(10, sigma, 3)) for sigma in (1, 1, 1.5)]
        low, high = observations.contrast(groups, weights, 0.05)
        inside += low <= 0 <= high
    assert 0.94 <= inside / times <= 0.985


def test_flattening_needs_four_numbers_of_guests(make):
    found = check("flattens", percents(make, 10, 20, 25))

    assert found.verdict == UNTESTED
    assert found.evidence.startswith("Needs at least four numbers of guests")


def test_flattening_is_of_one_workload_on_one_host(make):
    few = percents(make, 10, 20)

    for other in ({"workload": "stress"}, {"host": "beta"}, {"knobs": FAST}):
        assert verdict("flattens", few + percents(make, 0, 0, 25, 28, **other)[2:]) == UNTESTED


# --- what sampling costs --------------------------------------------------------------------------


def test_sampling_often_costs_no_visible_cpu(make):
    found = check("sampling-cost", two_periods(make, often=5.5, seldom=5.0))

    # 0.1 s of the sampler in 4 s
    assert found.verdict == HOLDS
    assert found.evidence == (
        "CPU use of the host (up to 1 point more counts as no cost): 5.5 % every 0.25 s and 5 % "
        "every 15 s (1 guest · idle); difference +0.5 (+0.5 to +0.5) points. The sampler itself "
        "used at most 2.5 % of one CPU."
    )


def test_sampling_often_costs_visible_cpu(make):
    found = check("sampling-cost", two_periods(make, often=6.5, seldom=5.0))

    assert found.verdict == FAILS
    assert "6.5 % every 0.25 s and 5 % every 15 s" in found.evidence


def test_less_cpu_with_sampling_often_is_no_cost(make):
    assert verdict("sampling-cost", two_periods(make, often=1.0, seldom=5.0)) == HOLDS


def test_cpu_use_of_repetitions_is_averaged(make):
    runs = [
        run
        for repetition, often in enumerate((5.4, 5.5, 5.6), start=1)
        for run in two_periods(make, often=often, seldom=5.0, repetition=repetition)
    ]
    found = check("sampling-cost", runs)

    assert found.verdict == HOLDS
    assert "5.5 % every 0.25 s and 5 % every 15 s" in found.evidence


def test_cpu_use_that_scatters_around_the_limit_is_inconclusive(make):
    runs = [
        run
        for repetition, often in enumerate((6.5, 4.5, 5.5), start=1)
        for run in two_periods(make, often=often, seldom=5.0, repetition=repetition)
    ]
    found = check("sampling-cost", runs)

    assert found.verdict == UNTESTED
    assert "points (not decided yet: more runs are needed)" in found.evidence


@pytest.mark.parametrize(
    "other",
    [
        {"interval": 1.0},
        {"interval": 9.9},
        {"interval": 60.0, "guests": 2},
        {"interval": 60.0, "workload": "stress"},
        {"interval": 60.0, "knobs": FAST},
        {"interval": 60.0, "host": "beta"},
    ],
    ids=["as often", "ten times, almost", "guests", "workload", "knobs", "host"],
)
def test_sampling_costs_need_equal_runs_sampled_ten_times_as_often(make, other):
    found = check("sampling-cost", [make(busy=50), make(busy=5, **other)])

    assert found.verdict == UNTESTED
    assert found.evidence == (
        "Needs equal runs, some of them sampled at least 10 times as often as others. The sampler "
        "itself used at most 2.5 % of one CPU."
    )


def test_ten_times_as_often_is_enough(make):
    assert verdict("sampling-cost", [make(busy=5), make(busy=5, interval=10.0)]) == HOLDS


@pytest.mark.parametrize("name", ["faster-scan", "after-workload", "mergeable"])
def test_zero_pages_count_as_saved(make, name):
    """What pages_sharing shows by itself is the opposite."""
    more, less = [300] * 17, [100] * 17
    runs = {
        "faster-scan": [
            make(knobs=knobs, cpu=cpu, ksm={"pages_sharing": sharing, "ksm_zero_pages": zero})
            for knobs, cpu, sharing, zero in ((SLOW, 0.4, less, more), (FAST, 0.8, more, less))
        ],
        "after-workload": [
            make(
                workload="stress",
                ksm=halves(300, 100) | {"ksm_zero_pages": halves(100, 500)["pages_sharing"]},
            )
        ],
        "mergeable": [
            make(
                workload="vm",
                options={"vm_madvise": advice},
                ksm={"pages_sharing": sharing, "ksm_zero_pages": zero},
            )
            for advice, sharing, zero in (("mergeable", 100, 300), ("unmergeable", 300, 100))
        ],
    }[name]
    found = check(name, runs)

    if name == "faster-scan":  # both reach their end at once
        assert "savings at the end +0%" in found.evidence
    else:
        assert found.verdict == HOLDS


def test_a_time_that_was_not_reached_is_not_left_out(make):
    rising = [60 * n for n in range(17)]
    runs = [*two_rates(make), make(knobs=FAST, ksm={"pages_sharing": rising})]
    found = check("faster-scan", runs)

    assert found.verdict == UNTESTED
    assert "is not known, since 3 runs did not reach it" in found.evidence


def test_logs_do_not_have_the_cost_of_their_sampler(imported):
    found = check("sampling-cost", [imported("")])

    assert found.evidence == (
        "Needs equal runs, some of them sampled at least 10 times as often as others."
    )
