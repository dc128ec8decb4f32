"""What a tensor's entries say about its number format, computed on its device."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from gradlab.fp16 import FP16_MIN_NORMAL
from gradlab.probes import fused

_EXACT_FP32 = 2**24
"""Up to this many, ones add up exactly in fp32."""
_CHUNK = 131072
"""Entries of a CPU tensor taken at a time: what passes after the first read is then in cache."""

_PIECE = 2**24
"""Entries of which `details` are taken at a time."""


def extremes(x: Tensor) -> tuple[Tensor, Tensor]:
    """Smallest and largest entry, 0-dim, in one read; both NaN if any entry is NaN."""
    low, high = torch.aminmax(x)
    return low, high


def is_finite_on_cpu(low: Tensor, high: Tensor) -> bool:
    """Whether a CPU tensor with these extremes is finite: nothing waits for this look."""
    if low.dtype is torch.bfloat16:  # NumPy has none
        low, high = low.float(), high.float()
    return math.isfinite(low.numpy()) and math.isfinite(high.numpy())


def small_counts(x: Tensor) -> Tensor:
    """(2,) fp64: count of entries of 2^-14 or more in magnitude, count of non-zero entries.

    For tensors on a CPU. Inf counts as both, NaN as non-zero.
    """
    whole = x.numel() <= _CHUNK or not x.is_contiguous()
    parts = [x] if whole else x.view(-1).split(_CHUNK)
    # New buffers for each part would cost more than the counts: the system clears their pages.
    magnitude = torch.empty_like(parts[0])
    ones = torch.empty_like(parts[0], dtype=_wide(parts[0]))
    sums = []
    for part in parts:
        if part.shape != magnitude.shape:
            magnitude, ones = magnitude[: part.numel()], ones[: part.numel()]
        torch.abs(part, out=magnitude)
        # Ones in fp32 add up several times as fast as booleans do on a CPU.
        sums.append(torch.ge(magnitude, FP16_MIN_NORMAL, out=ones).sum())
        sums.append(torch.ne(magnitude, 0, out=ones).sum())
    return torch.stack(sums).view(-1, 2).sum(0, dtype=torch.float64)


def _wide(x: Tensor) -> torch.dtype:
    """The dtype in which as many ones as there are entries add up exactly."""
    return torch.float64 if x.numel() > _EXACT_FP32 else torch.float32


def details(x: Tensor) -> Tensor:
    """Five fp64 numbers of a tensor, on its device.

    What it computes with is never as large as a large tensor: a GPU has no room for that.

    Returns:
        (5,): max |x| over the finite entries (0 if none), count of infinite entries, count of
        NaNs, then those of `small_counts`.
    """
    if (found := fused.details(x)) is not None:
        return found
    parts = [_details(part) for part in _pieces(x)]
    if len(parts) == 1:
        return parts[0]
    together = torch.stack(parts)
    return torch.cat([together[:, :1].amax(0), together[:, 1:].sum(0)])


def _details(x: Tensor) -> Tensor:
    magnitude = x.abs()
    finite = magnitude.nan_to_num(nan=0.0, posinf=0.0).amax()
    infinite, nan = magnitude == math.inf, magnitude != magnitude
    conditions = (infinite, nan, magnitude >= FP16_MIN_NORMAL, magnitude != 0)
    return torch.stack([finite.double(), *(condition.sum() for condition in conditions)])


def _pieces(x: Tensor) -> Iterator[Tensor]:
    """Parts of a tensor with entries, of a size that leaves room for the like."""
    if x.numel() <= _PIECE:
        yield x
    elif x.is_contiguous():
        yield from x.view(-1).split(_PIECE)
    else:
        rows = max(1, _PIECE * len(x) // x.numel())
        for part in x.split(rows):
            yield from _pieces(part if len(part) > 1 else part[0])
