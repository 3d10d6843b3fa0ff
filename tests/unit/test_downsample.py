"""Downsampling keeps all peaks."""

import numpy as np
import pytest

from ksm_analysis.page.downsample import envelope, packed, thin


@pytest.mark.parametrize("count", [1, 3, 100, 101, 997, 18_001])
@pytest.mark.parametrize("points", [4, 10, 100])
def test_minimum_maximum_and_both_ends_stay(count, points):
    values = np.random.default_rng(count).normal(size=count)
    picked = thin(values, points)

    assert len(picked) <= max(points, min(count, points))
    assert (np.diff(picked) > 0).all()
    assert {0, count - 1, values.argmin(), values.argmax()} <= set(picked)


def test_every_peak_stays_where_stretches_are_longer_than_peaks_are_apart():
    values = np.zeros(10_000)
    peaks = np.arange(50, 10_000, 100)
    values[peaks[::2]], values[peaks[1::2]] = 1, -1

    assert set(peaks) <= set(thin(values, 1000))


def test_few_values_stay_as_they_are():
    assert thin(np.array([3.0, np.nan, 1.0]), 4).tolist() == [0, 1, 2]


def test_gaps_stay():
    values = np.arange(1000.0)
    values[300:600] = np.nan
    picked = thin(values, 42)

    assert np.isnan(values[picked]).any()
    assert values[picked[~np.isnan(values[picked])]].max() == 999


def test_values_that_are_all_unknown_are_thinned_as_well():
    assert len(thin(np.full(1000, np.nan), 10)) <= 10


def test_less_than_four_points_cannot_do():
    with pytest.raises(ValueError, match="3 points are too few"):
        thin(np.zeros(10), 3)


def test_a_band_is_as_wide_as_its_widest():
    values = np.random.default_rng(1).normal(size=(1003, 5))
    start, low, high = envelope(values.min(axis=1), values.max(axis=1), 100)

    assert len(start) <= 100
    assert (low.min(), high.max()) == (values.min(), values.max())
    for first, least, most in zip(start, low, high, strict=True):
        part = values[first : first + 11]
        assert (least, most) == (part.min(), part.max())


def test_whole_numbers_are_exact_and_others_as_near_as_one_can_see():
    exact = packed(np.array([2.0**31 - 1, -5, 0]))
    near = packed(np.array([0.1, np.nan, 1e6]))

    assert exact.dtype == np.int32
    assert exact.tolist() == [2**31 - 1, -5, 0]
    assert near.dtype == np.float32
    assert near[[0, 2]] == pytest.approx([0.1, 1e6], rel=1e-6)
    assert packed(np.array([2.0**40])).dtype == np.float32
