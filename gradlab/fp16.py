"""The range of FP16, and what follows from it. Needs no torch."""

import math

FP16_MAX = 65504.0
"""Largest finite FP16 number."""

FP16_OVERFLOW = 65520.0
"""What rounds to this or more is infinite in FP16."""

FP16_MIN_NORMAL = 2.0**-14


def headroom_bits(max_abs: float, nonfinite: bool = False) -> float:
    """log2(65504 / max|x|): the factors of two left before FP16 overflows.

    −inf where an entry is not finite already, +inf where every entry is zero; negative for a
    tensor of a wider type that would not fit.
    """
    if nonfinite:
        return -math.inf
    return math.log2(FP16_MAX / max_abs) if max_abs > 0 else math.inf
