"""Statistics as one writes them down, apart from gradlab's."""

import math
import statistics
from collections.abc import Iterable

# Student's t, two-sided 95 %, from the printed tables.
T95 = {1: 12.7062047, 2: 4.3026527, 3: 3.1824463, 4: 2.7764451}


def interval(values: Iterable[float]) -> tuple[float, float, float]:
    """The mean, and the ends of its 95 % interval."""
    known = [float(value) for value in values]
    mean, count = statistics.fmean(known), len(known)
    half = T95[count - 1] * statistics.stdev(known) / math.sqrt(count)
    return mean, mean - half, mean + half


def geometric_interval(ratios: Iterable[float]) -> tuple[float, float, float]:
    """The same of ratios, on logarithms."""
    mean, low, high = map(math.exp, interval(map(math.log, ratios)))
    return mean, low, high
