"""Confidence intervals of small samples: Student's t without SciPy."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class MeanInterval:
    """A mean with a two-sided confidence interval; the ends are NaN where there is none."""

    mean: float
    low: float
    high: float


def t_coverage(t: float, dof: int) -> float:
    """P(|T| < t) for Student's t with a whole number of degrees of freedom.

    The finite trigonometric sums of Abramowitz and Stegun, 26.7.3 and 26.7.4, exact up to rounding.
    """
    theta = math.atan(t / math.sqrt(dof))
    cosine = math.cos(theta)
    first = 2 if dof % 2 else 1
    term = cosine if dof % 2 else 1.0
    total = term if dof > 1 else 0.0
    for k in range(first, dof - 2, 2):
        term *= cosine**2 * k / (k + 1)
        total += term
    odd = (theta + math.sin(theta) * total) * 2 / math.pi
    return odd if dof % 2 else math.sin(theta) * total


def t_quantile(dof: int, level: float = 0.95) -> float:
    """The t that a Student's t variable stays within, on both sides, with probability `level`."""
    if dof < 1 or not 0 < level < 1:
        raise ValueError(f"dof = {dof} must be 1 or more and level = {level} between 0 and 1.")
    low, high = 0.0, 1.0
    while t_coverage(high, dof) < level:
        high *= 2
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if t_coverage(middle, dof) < level else (low, middle)
    return (low + high) / 2


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
