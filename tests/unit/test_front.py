"""Settings that no other beats in both savings and cost."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from ksm_analysis.analysis.blocks import Block
from ksm_analysis.analysis.front import on_front

NOISE = np.array([-0.4, 0.1, 0.3])


def setting(saved, cost, rate=None, runs=3, shift=0):
    """Make what on_front needs of a setting: runs in blocks, which scatter a little."""
    noise = np.roll(NOISE, shift)[:runs]
    return SimpleNamespace(
        savings=tuple(saved + noise),
        cpu_seconds=(None,) * runs if cost is None else tuple(cost + 0.01 * noise),
        throughputs=(None,) * runs if rate is None else tuple(rate * (1 + 0.001 * noise)),
        blocks=tuple(Block("x", "host", n) for n in range(runs)),
    )


def test_a_setting_that_saves_less_and_costs_more_is_not_on_the_front():
    assert on_front([setting(100, 2), setting(90, 3, shift=1)]) == [True, False]
    assert on_front([setting(90, 3), setting(100, 2, shift=1)]) == [False, True]


def test_more_savings_at_more_cost_are_on_the_front():
    assert on_front([setting(100, 2), setting(90, 1, shift=1)]) == [True, True]


def test_what_the_runs_do_not_show_leaves_both():
    assert on_front([setting(100, 2), setting(100.1, 1, shift=1)]) == [True, True], "savings"
    assert on_front([setting(100, 2), setting(90, 2.001, shift=1)]) == [True, True], "cost"
    assert on_front([setting(100, 2, runs=2), setting(90, 3, runs=2)]) == [True, True], "2 runs"
    assert on_front([setting(100, 2, runs=1), setting(90, 3, runs=1)]) == [True, True], "1 run"
    assert on_front([setting(100, None), setting(90, 3, shift=1)]) == [True, True], "no cost"


def test_throughput_must_not_be_lost():
    worse = setting(90, 3, rate=1000, shift=1)

    assert on_front([setting(100, 2, rate=1000), worse]) == [True, False]
    assert on_front([setting(100, 2, rate=1200), worse]) == [True, False]
    assert on_front([setting(100, 2, rate=996), worse]) == [True, False], "less than 1 %"
    assert on_front([setting(100, 2, rate=980), worse]) == [True, True]
    assert on_front([setting(100, 2), worse]) == [True, True], "not known"


def test_of_several_only_those_that_are_beaten_are_left_out():
    rivals = [setting(50, 1), setting(80, 2, shift=1), setting(60, 4, shift=2), setting(100, 8)]

    assert on_front(rivals) == [True, True, False, True]


@pytest.mark.parametrize("step", [0, 0.5])
def test_settings_that_save_the_same_are_rarely_left_out(step):
    """Costs are equal, or differ much: then savings alone decide. At most 5 %, all together."""
    generator, times = np.random.default_rng(1), 300
    wrong = 0
    for _ in range(times):
        rivals = [setting(100, 2 + step * n) for n in range(4)]
        for each in rivals:
            each.savings = tuple(generator.normal(100, 1, 3))
            each.cpu_seconds = tuple(np.array(each.cpu_seconds) + generator.normal(0, 0.05, 3))
        wrong += not all(on_front(rivals))
    assert wrong <= stats.binom.ppf(0.999, times, 0.05)
