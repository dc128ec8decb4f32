"""Confidence intervals of small samples."""

import math
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit


class MeanInterval(NamedTuple):
    """A mean with a two-sided confidence interval; the ends are NaN where there is none."""

    mean: float
    low: float
    high: float

    def leaves_out(self, value: float) -> bool:
        """Whether the interval lies wholly on one side of a value."""
        return self.low > value or self.high < value

    def columns(self, name: str) -> dict[str, float]:
        """The mean under a name, and its ends under `_low` and `_high`."""
        return {name: self.mean, f"{name}_low": self.low, f"{name}_high": self.high}


def t_quantile(dof: int, level: float = 0.95) -> float:
    """The t that a Student's t variable stays within, on both sides, with probability `level`."""
    if dof < 1 or not 0 < level < 1:
        raise ValueError(f"dof = {dof} must be 1 or more and level = {level} between 0 and 1.")
    return -float(stdtrit(dof, (1 - level) / 2))


def mean_interval(values: Sequence[float]) -> MeanInterval:
    """Mean ± t · s/√n of independent values, at 95 %; no interval for fewer than two of them."""
    n = len(values)
    if not n:
        return MeanInterval(math.nan, math.nan, math.nan)
    mean = math.fsum(values) / n
    if n == 1:
        return MeanInterval(mean, math.nan, math.nan)
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    half = t_quantile(n - 1) * math.sqrt(variance / n)
    return MeanInterval(mean, mean - half, mean + half)


_LARGEST = math.log(sys.float_info.max)


def geometric_interval(ratios: Iterable[float]) -> MeanInterval:
    """Geometric mean of values above 0, with the interval on logarithms: 2 is as far as 1/2."""
    return MeanInterval(*map(exp, mean_interval([math.log(ratio) for ratio in ratios])))


def exp(log: float) -> float:
    """E to a power; infinite where no number is as large, as of a few values far apart."""
    return math.inf if log > _LARGEST else math.exp(log)


def spread(
    name: str,
    values: Sequence[float],
    interval: Callable[[Sequence[float]], MeanInterval] = mean_interval,
) -> dict[str, float]:
    """The columns of a mean with its interval, and the values' own ends under `_min` and `_max`."""
    return {
        **interval(values).columns(name),
        f"{name}_min": min(values, default=math.nan),
        f"{name}_max": max(values, default=math.nan),
    }


MOST_CORNERS = 12
"""Brackets of which all corners are gone through."""


def bracketed_ends(least: Sequence[float], largest: Sequence[float]) -> tuple[float, float]:
    """The lowest low end and the highest high end that `mean_interval` can have.

    Each value may be anywhere in its bracket, whatever the others are. Moving all of them to one
    end does not give these ends: some at one and some at the other spread more.

    Args:
        least: The lower end of each value's bracket, finite.
        largest: The upper end of each, finite.
    """
    lower, upper = np.asarray(least, dtype=float), np.asarray(largest, dtype=float)
    n = len(lower)
    if n < 2:
        return math.nan, math.nan
    error = t_quantile(n - 1) / math.sqrt(n)
    if n > MOST_CORNERS:
        # There is no quick way to the ends of any brackets. These are outside them: s is at most
        # that of the middles plus that of the ways from them, each at its longest.
        ways = float(np.sum(((upper - lower) / 2) ** 2)) / (n - 1)
        most = float(np.std((lower + upper) / 2, ddof=1)) + math.sqrt(ways)
        return float(lower.mean()) - error * most, float(upper.mean()) + error * most
    # s is convex in the values, so mean - t s/√n is least, and mean + t s/√n largest, at corners.
    is_upper = (np.arange(2**n)[:, None] >> np.arange(n)) % 2 == 1
    corners = np.where(is_upper, upper, lower)
    means, halves = corners.mean(axis=1), error * corners.std(axis=1, ddof=1)
    return float((means - halves).min()), float((means + halves).max())
