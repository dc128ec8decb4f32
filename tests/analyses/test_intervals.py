import math
from itertools import product

import by_hand
import numpy as np
import pytest

from gradlab.analyses.intervals import (
    MOST_CORNERS,
    bracketed_ends,
    geometric_interval,
    mean_interval,
    t_quantile,
)

# Fisher and Yates, Statistical Tables, table III (two-sided 5 % and 1 %).
TABLE = {
    1: (12.706, 63.657),
    2: (4.303, 9.925),
    3: (3.182, 5.841),
    4: (2.776, 4.604),
    7: (2.365, 3.499),
    10: (2.228, 3.169),
    29: (2.045, 2.756),
    120: (1.980, 2.617),
}


@pytest.mark.parametrize("dof", TABLE)
def test_t_quantiles_are_those_of_the_printed_tables(dof: int) -> None:
    five, one = TABLE[dof]
    assert t_quantile(dof, 0.95) == pytest.approx(five, abs=5.1e-4)
    assert t_quantile(dof, 0.99) == pytest.approx(one, abs=5.1e-4)


@pytest.mark.parametrize("dof", [1, 2, 3, 6, 9, 100])
@pytest.mark.parametrize("level", [0.01, 0.5, 0.95, 0.999])
def test_the_density_between_the_quantiles_integrates_to_the_level(dof: int, level: float) -> None:
    # t = √dof · tan θ: over angles the density is smooth, however far out the quantile is.
    end = math.atan(t_quantile(dof, level) / math.sqrt(dof))
    angles = np.linspace(-end, end, 20_001)
    scale = math.exp(math.lgamma((dof + 1) / 2) - math.lgamma(dof / 2)) / math.sqrt(math.pi)
    density = scale * np.cos(angles) ** (dof - 1)
    area = np.sum((density[1:] + density[:-1]) / 2 * np.diff(angles))
    assert area == pytest.approx(level, abs=1e-8)


def test_interval_covers_the_true_mean_as_often_as_it_says() -> None:
    draws = np.random.default_rng(0).normal(2.0, 3.0, size=(4000, 4))
    intervals = [mean_interval(row.tolist()) for row in draws]
    covered = np.mean([interval.low < 2.0 < interval.high for interval in intervals])
    assert covered == pytest.approx(0.95, abs=0.015)


def test_mean_and_ends_of_three_values() -> None:
    interval = mean_interval([1.0, 2.0, 6.0])
    assert interval == pytest.approx(by_hand.interval([1, 2, 6]))
    assert interval.leaves_out(interval.low - 1)
    assert not interval.leaves_out(3)


def test_ratios_that_are_far_apart_have_no_end() -> None:
    found = geometric_interval([1e-200, 1e200])
    assert found == pytest.approx((1, 0, math.inf))
    assert not found.leaves_out(1)


def test_one_value_has_no_interval_and_none_has_no_mean() -> None:
    one, none = mean_interval([5.0]), mean_interval([])
    assert one.mean == 5.0
    assert math.isnan(one.low)
    assert math.isnan(one.high)
    assert math.isnan(none.mean)


@pytest.mark.parametrize(("dof", "level"), [(0, 0.95), (3, 0.0), (3, 1.0)])
def test_quantile_refuses_what_has_none(dof: int, level: float) -> None:
    with pytest.raises(ValueError, match="dof"):
        t_quantile(dof, level)


def brackets(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Some wide, some narrow, one of no width, some within others."""
    draws = np.random.default_rng(seed)
    least, widths = draws.normal(0, 1, n), draws.exponential(1, n)
    widths[-1] = 0
    return least, least + widths


@pytest.mark.parametrize("n", [2, 3, 5, 8, MOST_CORNERS + 1, 30])
def test_no_values_within_brackets_have_an_interval_beyond_its_ends(n: int) -> None:
    least, largest = brackets(n, n)
    low, high = bracketed_ends(least.tolist(), largest.tolist())
    draws = np.random.default_rng(n + 100)
    shares = draws.uniform(0, 1, (300, n))
    shares[150:] = shares[150:].round()  # at corners
    found = [mean_interval((least + share * (largest - least)).tolist()) for share in shares]
    assert low <= min(one.low for one in found) + 1e-12
    assert high >= max(one.high for one in found) - 1e-12


@pytest.mark.parametrize("n", [2, 3, 6])
def test_the_ends_over_brackets_are_those_of_some_values(n: int) -> None:
    least, largest = brackets(n, n)
    found = [mean_interval(corner) for corner in product(*zip(least, largest, strict=True))]
    ends = min(one.low for one in found), max(one.high for one in found)
    assert bracketed_ends(least.tolist(), largest.tolist()) == pytest.approx(ends)


@pytest.mark.parametrize("n", [2, 4, MOST_CORNERS, MOST_CORNERS + 1, 40])
def test_brackets_without_width_have_the_interval_of_their_values(n: int) -> None:
    values = np.random.default_rng(n).normal(0, 1, n).tolist()
    interval = mean_interval(values)
    assert bracketed_ends(values, values) == pytest.approx((interval.low, interval.high))


def test_fewer_than_two_brackets_have_no_ends() -> None:
    assert np.isnan([*bracketed_ends([], []), *bracketed_ends([1.0], [2.0])]).all()
