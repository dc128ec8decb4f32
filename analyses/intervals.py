"""Confidence intervals of small samples."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import stdtrit


@dataclass(frozen=True)
class MeanInterval:
    """A mean with a two-sided confidence interval; the ends are NaN where there is none."""

    mean: float
    low: float
    high: float


def t_quantile(dof: int, level: float = 0.95) -> float:
    """The t that a Student's t variable stays within, on both sides, with probability `level`."""
    if dof < 1 or not 0 < level < 1:
        raise ValueError(f"dof = {dof} must be 1 or more and level = {level} between 0 and 1.")
    return -float(stdtrit(dof, (1 - level) / 2))


def mean_interval(values: Sequence[float], level: float = 0.95) -> MeanInterval:
    """Mean ± t · s/√n of independent values; no interval for fewer than two of them."""
    n = len(values)
    if not n:
        return MeanInterval(math.nan, math.nan, math.nan)
    mean = math.fsum(values) / n
    if n == 1:
        return MeanInterval(mean, math.nan, math.nan)
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    half = t_quantile(n - 1, level) * math.sqrt(variance / n)
    return MeanInterval(mean, mean - half, mean + half)
