"""What a tensor's entries say about its number format, computed on its device."""

import math

import torch
from torch import Tensor

FP16_MAX = 65504.0
"""Largest finite FP16 number."""
FP16_OVERFLOW = 65520.0
"""What rounds to this or more is infinite in FP16."""
FP16_MIN_NORMAL = 2.0**-14


def extremes(x: Tensor) -> tuple[Tensor, Tensor]:
    """Smallest and largest entry, 0-dim, in one read; both NaN if any entry is NaN."""
    low, high = torch.aminmax(x)
    return low, high


def details(x: Tensor) -> Tensor:
    """Five fp64 numbers of a tensor, on its device.

    Returns:
        (5,): max |x| over the finite entries (0 if none), count of infinite entries, count of
        NaNs, count of non-zero entries below 2^-14 in magnitude, count of non-zero entries.
    """
    magnitude = x.abs()
    infinite = torch.isinf(magnitude)
    nan = torch.isnan(magnitude)
    finite = magnitude.masked_fill(infinite | nan, 0)
    nonzero = magnitude != 0
    return torch.stack(
        [
            finite.amax().double(),
            infinite.sum(),
            nan.sum(),
            (nonzero & (magnitude < FP16_MIN_NORMAL)).sum(),
            nonzero.sum(),
        ]
    )


def headroom_bits(max_abs: float, nonfinite: bool = False) -> float:
    """log2(65504 / max|x|): the factors of two left before FP16 overflows.

    −inf where an entry is not finite already, +inf where every entry is zero; negative for a
    tensor of a wider type that would not fit.
    """
    if nonfinite:
        return -math.inf
    return math.log2(FP16_MAX / max_abs) if max_abs > 0 else math.inf
