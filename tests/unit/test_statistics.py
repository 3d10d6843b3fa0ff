"""Statistics of two groups of runs."""

# ruff: noqa: RUF003

import importlib.util
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from ksm_analysis.analysis import statistics
from ksm_analysis.analysis.statistics import difference, estimate, holm, runs_needed, verdict

BENCH = Path(__file__).parents[2] / "bench" / "false_positives.py"


@pytest.fixture(scope="module")
def simulated():
    """Load the benchmark that simulates experiments, which is not in a package."""
    spec = importlib.util.spec_from_file_location("false_positives", BENCH)
    module = importlib.util.module_from_spec(spec)
    sys.modules["false_positives"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def blocks(simulated):
    """Load the benchmark of settings in blocks, which imports the other one."""
    spec = importlib.util.spec_from_file_location("bench_blocks", BENCH.with_name("blocks.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def warnings_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


# --- one group ------------------------------------------------------------------------------------


def test_an_interval_is_that_of_student():
    found = estimate([10, 12, 14, np.nan])

    # 12 ± 4.303 × 2 / √3
    assert (found.mean, found.runs) == (12, 3)
    assert (found.low, found.high) == pytest.approx((7.032, 16.968), abs=0.001)


def test_one_run_has_no_interval_and_no_run_no_estimate():
    assert estimate([5.0]) == statistics.Estimate(5, None, None, 1)
    assert estimate([np.nan]) is None


# --- times that may not have been reached --------------------------------------------------------


def test_times_that_were_reached_have_a_mean():
    found = statistics.times_of([1, 2, 6], [True] * 3)

    assert (found.mean, found.low, found.high) == (
        (over := estimate([1, 2, 6])).mean,
        over.low,
        over.high,
    )
    assert (found.median, found.restricted_mean, found.until) == (2, 3, 6)
    assert statistics.times_of([], []) is None


def test_censored_times_are_those_of_kaplan_and_meier():
    """By hand: 6 runs, reached after 2, 4 and 4, watched for 3, 5 and 9."""
    found = statistics.times_of([4, 3, 2, 5, 4, 9], [True, False, True, False, True, False])
    # S is 5/6 from 2 on, and 5/6 of 2/4 from 4 on
    assert found.median == 4
    assert found.restricted_mean == pytest.approx(2 + 2 * 5 / 6 + 5 * 5 / 12)
    assert (found.mean, found.reached, found.runs, found.until) == (None, 3, 6, 9)


def test_a_median_that_is_not_reached():
    found = statistics.times_of([2, 9, 9], [True, False, False])

    assert (found.median, found.until) == (None, 9)
    assert found.restricted_mean == pytest.approx(20 / 3)


def test_a_mean_of_the_lucky_runs_is_too_small_and_the_restricted_mean_is_right():
    generator = np.random.default_rng(2)
    times = generator.exponential(40, (2_000, 5))
    seen = times <= 30
    found = [statistics.times_of(*each) for each in zip(np.minimum(times, 30), seen, strict=True)]
    true = 40 * (1 - np.exp(-30 / 40))

    assert times[seen].mean() < 0.65 * true
    assert np.mean([each.restricted_mean for each in found]) == pytest.approx(true, rel=0.02)


# --- after a selection ----------------------------------------------------------------------------


def test_the_interval_of_the_greatest_of_several_is_longer_below():
    values = [99, 100, 104]
    plain, of_two, of_ten = (estimate(values, chosen_of=n) for n in (1, 2, 10))

    assert plain == of_two, "of two, as often too high as too low"
    assert of_ten.low < plain.low
    assert (of_ten.mean, of_ten.high) == (plain.mean, plain.high)


@pytest.mark.parametrize("settings", [2, 4, 10])
@pytest.mark.parametrize("runs", [3, 5])
def test_the_interval_of_the_best_has_its_mean_after_the_selection(blocks, settings, runs):
    """93 to 97 %, or more with few runs of ten settings; see docs/metrics.md."""
    for apart in (0, 3):
        plain, fair = blocks.covered(np.random.default_rng(1), 600, settings, runs, apart)
        assert no_more_than(0.05, ~fair)
        if settings == 10 and not apart:
            assert not no_more_than(0.05, ~plain), "without the correction"


# --- equal, as far as it matters ------------------------------------------------------------------


@pytest.mark.parametrize("runs", [3, 5, 10])
@pytest.mark.parametrize("difference", [0.01, -0.01])
def test_what_differs_by_the_margin_is_rarely_called_the_same(runs, difference):
    generator = np.random.default_rng(runs)
    a, b = generator.normal(100, 0.3, (2, 600, runs))
    b = b + 100 * difference
    for in_blocks in (False, True):
        p = [statistics.equivalence(*each, 0.01, in_blocks) for each in zip(a, b, strict=True)]
        assert no_more_than(0.05, np.array(p) < 0.05)


def test_what_is_equal_is_called_the_same_with_enough_runs():
    generator = np.random.default_rng(1)
    a, b = generator.normal(100, 0.3, (2, 100, 10))
    p = [statistics.equivalence(*each, 0.01) for each in zip(a, b, strict=True)]

    assert np.mean(np.array(p) < 0.05) > 0.95
    assert statistics.equivalence([1, 1], [1, 1], 0.01) is None, "too few runs"


def test_equivalence_without_spread_and_without_a_ratio():
    same = statistics.equivalence
    assert (same([5] * 3, [5] * 3, 0), same([5] * 3, [6] * 3, 0.1)) == (0, 1)
    assert same([5] * 3, [6] * 3, 0.1, in_blocks=True) == 1
    assert same([1, 2, 4], [1, 2, 4], 0, in_blocks=True) == 0
    assert same([-10, -10.1, -9.9], [-10, -9.9, -10.1], 0.1) < 0.05
    assert same([0, 0, 0], [0, 0, 0], 0.01) == 0
    assert same([1, 2, np.nan, 3], [1, 2, 3, np.nan], 0.5, in_blocks=True) is None


# --- two groups -----------------------------------------------------------------------------------


@pytest.mark.parametrize("runs", [(1, 1), (2, 9), (9, 2)])
def test_fewer_than_three_runs_on_a_side_have_no_verdict(runs):
    found = difference(*(np.arange(n) + 10.0 for n in runs))

    assert found.p is None
    assert found.low is None
    assert verdict(found, None, 0.01) == "no verdict"


def test_a_few_runs_are_compared_by_welch():
    a, b = [100, 101, 102], [110.0, 112, 117, 111]
    found = difference(a, b)
    welch = stats.ttest_ind(b, a, equal_var=False)
    interval = welch.confidence_interval()

    assert found.method == "Welch"
    assert found.p == pytest.approx(welch.pvalue)
    assert (found.absolute_low, found.absolute_high) == pytest.approx(tuple(interval))
    assert found.change == pytest.approx(11.5 / 101)
    assert found.low == pytest.approx(interval.low / 101)


def test_many_runs_are_compared_by_the_bootstrap_of_the_ratio():
    generator = np.random.default_rng(5)
    a, b = generator.normal(100, 3, 8), generator.normal(110, 3, 9)
    found = difference(a, b)

    assert found.method == "bootstrap"
    assert found.p < 0.001
    assert found.change == pytest.approx(b.mean() / a.mean() - 1)
    assert found.low < found.change < found.high
    assert found.high - found.low < 0.1
    assert difference(a, b) == found  # the result is deterministic


def test_values_that_are_not_all_positive_have_no_ratio():
    generator = np.random.default_rng(5)
    found = difference(generator.normal(0, 1, 12), generator.normal(0, 1, 12))

    assert found.method == "Welch"


def test_what_may_be_negative_has_an_effect_but_no_ratio():
    found = difference([-10, -11, -9], [5, 6, 4])

    # of the larger of the two, without its sign
    assert found.change is None
    assert found.effect == pytest.approx(1.5)
    assert found.low < 1.5 < found.high
    assert verdict(found, 0.001, 0.01) == "higher"
    assert verdict(found, 0.001, 2, 0.001) == "differs, by less than matters"
    assert verdict(found, 0.001, 2, 0.06) == "differs, perhaps by less than matters"


def test_nothing_is_relative_to_zero():
    assert difference([0, 0, 0], [1, 2, 3]).change is None
    assert difference([0, 0, 0], [1, 2, 3]).effect == 1
    assert difference([-1, 0, 1], [-2, 0, 2]).effect is None


@pytest.mark.parametrize("other", [977.0, 977.5, 1000])
def test_almost_equal_values_have_finite_bounds(other):
    found = difference([977.0] * 7 + [977.1], [977.0] * 7 + [other])

    assert np.isfinite([found.p, found.low, found.high]).all()


def test_values_that_differ_by_rounding_have_finite_bounds():
    found = difference([0.1] * 8, [0.3] * 7 + [0.1 + 0.2])

    assert found.change == pytest.approx(2)
    assert (found.low, found.high) == pytest.approx((2, 2))


def test_many_runs_must_pass_both_tests():
    a, b = np.array([100, 101, 102, 99, 98, 100, 103, 97]), np.arange(8) * 9.0 + 75
    welch = stats.ttest_ind(b, a, equal_var=False).pvalue

    assert difference(a, b).p >= welch
    assert difference(a[:7], b[:7]).p == stats.ttest_ind(b[:7], a[:7], equal_var=False).pvalue


@pytest.mark.parametrize("runs", [3, 10])
def test_constants_are_equal_or_not(runs):
    equal, unequal = (difference([977] * runs, [other] * runs) for other in (977, 979))

    assert (equal.p, unequal.p) == (1.0, 0.0)
    assert verdict(equal, 1.0, 0.01) == "the same"
    assert verdict(unequal, 0.0, 0.001) == "higher"
    assert verdict(unequal, 0.0, 0.01) == "differs, by less than matters"


@pytest.mark.parametrize("runs", [3, 10])
def test_a_constant_against_what_scatters(runs):
    found = difference([977] * runs, 977 + np.arange(runs))

    assert 0 <= found.p <= 1
    assert np.isfinite(found.low)


def test_runs_without_a_value_do_not_count():
    assert difference([1, 2, np.nan], [3, 4, 5]).p is None
    assert difference([np.nan] * 3, [3, 4, 5]) is None


# --- verdicts -------------------------------------------------------------------------------------


def test_lower_and_higher_refer_to_the_second():
    low, high = [100, 101, 102, 103], [120, 121, 122, 123]

    assert verdict(difference(low, high), 0.001, 0.01) == "higher"
    assert verdict(difference(high, low), 0.001, 0.01) == "lower"


def test_the_same_is_more_than_no_difference_shown():
    near, far = [100.0, 100.1, 99.9, 100.0], [100.0, 130, 70, 105]

    same = statistics.equivalence(near, near[::-1], 0.01)
    assert verdict(difference(near, near[::-1]), 1.0, 0.01, same) == "the same"
    assert verdict(difference(near, near[::-1]), 1.0, 0.01, None) == "no difference shown"
    same = statistics.equivalence(near, far, 0.01)
    assert verdict(difference(near, far), 0.9, 0.01, same) == "no difference shown"


def test_a_difference_that_other_comparisons_may_explain_is_not_shown():
    found = difference([100, 101, 102], [103, 104, 105])

    assert found.p < 0.05
    assert verdict(found, 0.06, 0.01) == "no difference shown"


def test_holm_is_stricter_with_more_comparisons():
    # Holm, 1979: 0.01 × 4, then 0.02 × 3, 0.03 × 2, 0.04 × 1, and never less than the one before
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_runs_needed_grow_with_the_square_of_the_spread():
    small = runs_needed([99, 100, 101], [99, 100, 101], 100, 0.01)
    large = runs_needed([98, 100, 102], [98, 100, 102], 100, 0.01)

    # 2 × (2.80 × 1 % / 1 %)²
    assert small == 16
    assert large == pytest.approx(4 * small, rel=0.05)
    assert runs_needed([1], [1, 2], 1, 0.01) is None
    assert runs_needed([0, 0], [1, 2], 0, 0.01) is None


# --- error rates ----------------------------------------------------------------------------------


def no_more_than(level, alarms):
    """At the given level, more alarms have a probability of 1 in 1000."""
    return alarms.sum() <= stats.binom.ppf(0.999, len(alarms), level)


@pytest.mark.parametrize("kind", ["normal", "skewed", "autocorrelated", "autocorrelated_mean"])
@pytest.mark.parametrize(("runs", "times"), [(3, 4000), (5, 4000), (7, 4000), (8, 500), (12, 500)])
def test_false_alarms_are_rare(simulated, monkeypatch, kind, runs, times):
    monkeypatch.setattr(statistics, "RESAMPLES", 299)  # as often too small as one of more
    generator = np.random.default_rng(runs)
    a, b = (getattr(simulated, kind)(generator, (times, runs)) for _ in "ab")

    assert no_more_than(0.05, simulated.alarms(a, b))


@pytest.mark.parametrize("runs", [3, 4, 5, 6, 7])
def test_runs_with_two_values_raise_few_more_false_alarms(simulated, runs):
    """The hardest case for Welch; docs/metrics.md has the rates."""
    a, b = (simulated.two_values(np.random.default_rng(seed), (4000, runs)) for seed in (1, 2))

    assert simulated.alarms(a, b).mean() < 0.08


def test_many_runs_of_unequal_spread_raise_not_many_false_alarms(monkeypatch):
    """A permutation alone raises 8 %, and twice that if it ignores the spread."""
    monkeypatch.setattr(statistics, "RESAMPLES", 299)
    generator = np.random.default_rng(1)
    a, b = generator.normal(100, 12, (1000, 8)), generator.normal(100, 3, (1000, 16))

    assert np.mean(statistics.p_value(a, b) < 0.05) < 0.075


def test_several_metrics_raise_no_more_false_alarms_than_one(simulated):
    generator = np.random.default_rng(1)
    a, b = (simulated.normal(generator, (2000, 6, 5)) for _ in "ab")

    assert no_more_than(0.05, simulated.family_alarms(a, b))
    alone = (statistics.p_value(a, b) < 0.05).any(axis=1)
    assert alone.mean() > 0.15  # what Holm prevents


def test_pooled_samples_raise_many_false_alarms(simulated):
    """The same series as above: the test above would detect pooled samples."""
    pooled = simulated.pooled_alarms(np.random.default_rng(1), 200, 5)

    assert pooled.mean() > 0.5
    assert not no_more_than(0.05, pooled)


@pytest.mark.parametrize("runs", [3, 8])
def test_verdicts_are_not_wrong_more_often_than_p(simulated, monkeypatch, runs):
    monkeypatch.setattr(statistics, "RESAMPLES", 999)
    generator = np.random.default_rng(1)
    a, b = (simulated.normal(generator, (100, runs)) for _ in "ab")
    said = simulated.verdicts(a, b, 0.01)

    wrong = np.isin(said, [statistics.HIGHER, statistics.LOWER])
    assert not (wrong & ~simulated.alarms(a, b)).any()
    assert no_more_than(0.05, wrong)


@pytest.mark.parametrize("runs", [5, 10])
def test_an_existing_difference_is_found(simulated, monkeypatch, runs):
    monkeypatch.setattr(statistics, "RESAMPLES", 999)
    generator = np.random.default_rng(1)
    a, b = (generator.normal(mean, 2, (50, runs)) for mean in (100, 110))

    assert np.mean(simulated.verdicts(a, b, 0.01) == statistics.HIGHER) > 0.95
    assert np.mean(simulated.verdicts(b, a, 0.01) == statistics.LOWER) > 0.95


# --- the greatest ---------------------------------------------------------------------------------


def test_groups_that_are_shown_to_be_less_are_excluded():
    groups = [10.0, 11, 12], [10.5, 11.5, 11], [20.0, 21, 22], [19.0, 22.5, 21]

    assert statistics.may_be_greatest(groups) == [False, False, True, True]


def test_too_few_runs_exclude_nothing():
    assert statistics.may_be_greatest([[1.0, 1, 1], [100.0, 100]]) == [True, True]


def test_groups_without_spread_are_equal_or_not():
    assert statistics.may_be_greatest([[1.0] * 3, [2.0] * 3, [2.0] * 3]) == [False, True, True]


@pytest.mark.parametrize(("groups", "tries", "most"), [(2, 200, 17), (4, 60, 7)])
def test_equal_groups_are_rarely_separated(groups, tries, most):
    """The chance that any is excluded is at most 5 %, also with unequal spreads.

    At 5 %, more than `most` of the tries have a chance of 1.5 %.
    """
    dice = np.random.default_rng(7)
    spreads = np.linspace(1, 3, groups)
    wrong = sum(
        not all(statistics.may_be_greatest([dice.normal(100, s, 4) for s in spreads]))
        for _ in range(tries)
    )

    assert wrong <= most


# --- within blocks --------------------------------------------------------------------------------


def test_pairs_are_compared_by_the_t_test_of_their_logarithms():
    a, b = np.array([100.0, 200, 50, 80]), np.array([112.0, 218, 56, 85])
    found = statistics.paired(a, b)
    test = stats.ttest_1samp(np.log(b / a), 0)
    interval = np.expm1(test.confidence_interval())

    assert found.method == "paired ratios"
    assert found.p == pytest.approx(test.pvalue)
    assert found.change == pytest.approx(np.expm1(np.log(b / a).mean()))
    assert (found.low, found.high) == pytest.approx(tuple(interval))


@pytest.mark.parametrize(("a", "b"), [([0, 2, 3], [2.0, 4.5, 4]), ([-5, 2, 3], [-3, 4, 4.5])])
def test_pairs_without_a_ratio_are_compared_by_differences(a, b):
    found = statistics.paired(a, b)
    test = stats.ttest_rel(b, a)

    assert found.method == "paired differences"
    assert (found.p, found.change) == (pytest.approx(test.pvalue), None)
    assert (found.absolute_low, found.absolute_high) == pytest.approx(
        tuple(test.confidence_interval())
    )


def test_a_difference_in_every_block_is_found_whatever_the_blocks_are():
    hosts = np.array([10, 200, 3_000, 44, 500, 6])
    found = statistics.paired(hosts, 1.1 * hosts)
    drift = 100.0 + 40 * np.arange(5)

    assert verdict(found, found.p, 0.01) == "higher"
    assert found.change == pytest.approx(0.1)
    assert statistics.paired(drift, 1.05 * drift).p < 0.001
    assert difference(drift, 1.05 * drift).p > 0.5
    same = statistics.equivalence(drift, drift, 0, in_blocks=True)
    assert verdict(statistics.paired(drift, drift), 1.0, 0, same) == "the same"


def test_only_complete_pairs_count():
    found = statistics.paired([1, 2, np.nan, 4], [2, np.nan, 4, 5])

    assert (found.a.runs, found.a.mean, found.p) == (2, 2.5, None)
    assert statistics.paired([1, np.nan], [np.nan, 1]) is None
    assert statistics.paired([], []) is None


def test_pairs_of_constants_are_equal_or_not():
    assert statistics.paired([5, 5, 5], [5, 5, 5]).p == 1
    assert statistics.paired([0, 0, 0], [0, 0, 0]).p == 1
    assert statistics.paired([5, 5, 5], [6, 6, 6]).method == "constant"


def test_pairs_needed_have_the_power_that_is_asked_for():
    needed = statistics.pairs_needed(0.05, 0.05)

    # by simulation, and one pair less has too little
    draws = np.random.default_rng(1).normal(0.05, 0.05, (20_000, needed))
    assert np.mean(stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05) > 0.79
    assert statistics.paired_power(needed - 1, 1) < 0.8 <= statistics.paired_power(needed, 1)
    assert statistics.pairs_needed(0, 0.05) == statistics.FEWEST
    assert statistics.pairs_needed(0.05, 0) is None
    assert statistics.pairs_needed(1.0, 0.001) == pytest.approx((2.8016 / 0.001) ** 2, rel=0.001)


@pytest.mark.parametrize("kind", ["normal", "skewed"])
@pytest.mark.parametrize("blocks", [3, 5, 10])
def test_false_alarms_within_blocks_are_rare(simulated, kind, blocks):
    generator = np.random.default_rng(blocks)
    a, b = simulated.in_blocks(generator, (1500, blocks, 2), getattr(simulated, kind)).T
    alarms = [statistics.paired(*pair).p < 0.05 for pair in zip(a.T, b.T, strict=True)]

    assert no_more_than(0.05, np.array(alarms))


@pytest.mark.parametrize("blocks", [3, 5, 8])
def test_within_blocks_that_differ_much_more_is_found(simulated, blocks):
    table = simulated.in_blocks(np.random.default_rng(1), (100, blocks, 2), simulated.narrow)
    table[..., 1] *= 1.10
    within = [statistics.paired(*each.T).p < 0.05 for each in table]
    between = statistics.p_value(table[:30, :, 0], table[:30, :, 1]) < 0.05

    assert np.mean(within) > 0.75
    assert np.mean(between) < 0.1


def test_settings_that_are_less_in_each_block_are_excluded():
    blocks = np.array([100.0, 200, 300])[:, None]

    assert statistics.may_be_greatest_in_blocks(blocks * [1.1, 1, 1.1]) == [True, False, True]
    assert statistics.may_be_greatest_in_blocks(blocks[:2] * [1.1, 1]) == [True, True]
    assert statistics.may_be_greatest_in_blocks(blocks * [1, 1, 1]) == [True] * 3
    assert statistics.may_be_greatest_in_blocks(blocks * [0, 0]) == [True] * 2
    assert statistics.may_be_greatest_in_blocks(np.ones((3, 2)) * [1, 2]) == [False, True]


def test_two_settings_in_blocks_are_compared_by_the_paired_t_test():
    table = np.exp(np.random.default_rng(3).normal(0, 0.1, (40, 4, 2)))
    p = stats.ttest_rel(*np.log(table).transpose(2, 0, 1), axis=1).pvalue
    excluded = [not all(statistics.may_be_greatest_in_blocks(each)) for each in table]

    assert excluded == list(p < 0.05)


@pytest.mark.parametrize("spread", [1, 3])
@pytest.mark.parametrize(("settings", "blocks"), [(4, 3), (4, 5), (10, 3), (10, 5)])
def test_equal_settings_in_blocks_are_rarely_separated(simulated, settings, blocks, spread):
    """Also if the settings have spreads of 1 to 3 %, in logarithms.

    Two settings are compared by the paired t-test, as the test above shows.
    """
    generator = np.random.default_rng(settings)
    tables = simulated.in_blocks(generator, (300, blocks, settings), simulated.narrow)
    tables = tables * np.exp(
        np.linspace(0, (spread**2 - 1) ** 0.5 / 100, settings) * generator.normal(size=tables.shape)
    )
    wrong = [not all(statistics.may_be_greatest_in_blocks(each)) for each in tables]

    assert no_more_than(0.05, np.array(wrong))


@pytest.mark.parametrize("settings", [2, 4, 10])
def test_the_best_in_blocks_that_differ_much_is_found_more_often(simulated, settings):
    tables = simulated.in_blocks(np.random.default_rng(1), (60, 5, settings), simulated.narrow)
    tables[..., 0] *= 1.05
    best = [True] + [False] * (settings - 1)
    within = np.mean([statistics.may_be_greatest_in_blocks(each) == best for each in tables])
    between = np.mean([statistics.may_be_greatest(each.T) == best for each in tables[:20]])

    assert within > 0.8
    assert between < 0.1


@pytest.mark.parametrize("sizes", [(8, 8), (10, 11)])  # all permutations, and random ones
def test_a_permutation_and_a_bootstrap_are_those_of_scipy(sizes):
    random = np.random.default_rng(1)
    a, b = (random.lognormal(5 + n / 20, 0.1, size) for n, size in enumerate(sizes))
    resamples = statistics.RESAMPLES
    draw = np.random.default_rng(statistics.SEED)
    method = stats.PermutationMethod(n_resamples=resamples, rng=draw)
    again = stats.ttest_ind(b, a, equal_var=False, method=method).pvalue
    alone = stats.ttest_ind(b, a, equal_var=False).pvalue
    bounds = stats.bootstrap(
        (a, b),
        lambda a, b, axis: b.mean(axis=axis) / a.mean(axis=axis),
        n_resamples=resamples,
        rng=np.random.default_rng(statistics.SEED),
    ).confidence_interval

    found = statistics.difference(a, b)

    assert found.p == pytest.approx(max(again, alone), rel=1e-9)
    assert [found.low + 1, found.high + 1] == pytest.approx([*bounds], rel=1e-9)


def test_draws_for_many_runs_are_not_kept_and_say_the_same(monkeypatch):
    a, b = np.random.default_rng(1).gamma(2, 1, (2, 12))
    kept = statistics.difference(a, b)
    known = statistics._kept.cache_info().currsize
    monkeypatch.setattr(statistics, "KEPT", 0)
    monkeypatch.setattr(statistics, "AT_ONCE", 10_000)

    assert statistics.difference(a, b) == kept
    assert statistics.difference(a[:-1], b) != kept
    assert statistics._kept.cache_info().currsize == known
