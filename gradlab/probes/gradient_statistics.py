"""L1, L2, largest magnitude and non-finite count of many gradients, each read from memory once."""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch._utils import _flatten_dense_tensors

from gradlab.probes import fused

_SMALL = 4096
"""Up to this many entries, gradients of one size are copied into a matrix: 100 calls become one."""
_CHUNK = 131072
"""Entries that each thread of a CPU takes at a time, and passes over five times: few enough for its
L2 cache, and enough that the threads seldom wait for each other."""
_WHOLE = 2**62
_FP32_MEAN_SQUARE = 1e-30
"""Above it, what fp32 squares lose below 2^-126 is less than 1e-7 of their sum."""


@torch.no_grad()
def gradient_statistics(gradients: Sequence[Tensor]) -> Tensor:
    """Four numbers of each gradient, on its device, without reading a value on the host.

    Σ|g| and √Σg² are within 1e-6 of float64 at any size, and of any magnitude whose square float64
    holds. fp16 and bf16 are summed in
    fp32, fp64 in itself. On a CPU each tensor is read from memory once; twice if it has entries
    that are not finite, or squares outside the range of fp32.

    Args:
        gradients: on one device; any shape, strides and dtype, of complex ones the magnitudes. Of a
            sparse gradient, entries with the same index are added first.

    Returns:
        (n, 4) float64, a row a gradient: Σ|g|, Σg² and max |g| over its finite entries (0 if there
        are none), and the count of the others.
    """
    if not gradients:
        return torch.zeros(0, 4, dtype=torch.float64, device="cpu")
    entries = [_dense(gradient) for gradient in gradients]
    return _on_cpu(entries) if entries[0].device.type == "cpu" else _on_gpu(entries)


def _on_gpu(entries: Sequence[Tensor]) -> Tensor:
    """All at once, if there are kernels for that; else each gradient as one piece."""
    if (found := fused.statistics(entries)) is not None:
        return torch.cat([found[:, :3], found[:, 3:5].sum(1, keepdim=True)], 1)
    return _whole(entries)


def _whole(entries: Sequence[Tensor]) -> Tensor:
    rows = list(torch.zeros(len(entries), 4, dtype=torch.float64, device=entries[0].device))
    for owners, values in _pieces(entries, _WHOLE):
        for owner, row in zip(owners, _statistics(values), strict=True):
            rows[owner] = row
    return torch.stack(rows)


def _dense(gradient: Tensor) -> Tensor:
    """The entries that a gradient stores, in the order of memory: a view, with gaps if it has."""
    if gradient.layout is not torch.strided:
        gradient = (gradient.coalesce() if gradient.is_sparse else gradient).values()
    if gradient.is_complex():
        gradient = gradient.abs()
    return fused.in_order(gradient)


def _pieces(entries: Sequence[Tensor], chunk: int) -> Iterator[tuple[list[int], Tensor]]:
    """Everything as matrices of at most `chunk` entries, with the gradient that each row is of.

    The small gradients of one size make a matrix together; others are cut into matrices of one row.
    """
    small: dict[tuple[int, torch.dtype], list[int]] = defaultdict(list)
    for owner, values in enumerate(entries):
        size = values.numel()
        if size > _SMALL:
            for part in values.reshape(1, -1).split(chunk, 1):
                yield [owner], part
        elif size:
            small[size, values.dtype].append(owner)
    for (size, _), owners in small.items():
        for start in range(0, len(owners), chunk // size):
            some = owners[start : start + chunk // size]
            flat = _flatten_dense_tensors([entries[owner] for owner in some])
            yield some, flat.view(len(some), size)


def _statistics(values: Tensor) -> Tensor:
    """(rows, entries) -> (rows, 4), for entries of any magnitude, finite or not."""
    magnitude = values.abs() if values.dtype is torch.float64 else values.float().abs()
    nonfinite = (magnitude < math.inf).logical_not_()  # a NaN is not below anything
    magnitude.masked_fill_(nonfinite, 0)
    largest = magnitude.amax(-1)
    # Divided by the largest, neither the sums nor the squares leave the range of their dtype.
    magnitude.div_(torch.where(largest > 0, largest, 1).unsqueeze(-1))
    total = magnitude.sum(-1)
    squares = magnitude.square_().sum(-1)
    scale = largest.double()
    return torch.stack([total * scale, squares * scale * scale, scale, nonfinite.sum(-1)], -1)


def _on_cpu(entries: Sequence[Tensor]) -> Tensor:
    """The same with half the passes, and again with `_statistics` where that was not enough."""
    chunk = _CHUNK * torch.get_num_threads()
    # New buffers for each piece would cost more than the sums: the system clears their pages.
    buffers: dict[torch.dtype, Tensor] = {}
    magnitude = torch.empty(0, device="cpu")
    owners: list[int] = []
    sums, squares, largest = [], [], []
    for members, values in _pieces(entries, chunk):
        dtype = torch.float64 if values.dtype is torch.float64 else torch.float32
        if magnitude.shape != values.shape or magnitude.dtype is not dtype:
            if dtype not in buffers:
                buffers[dtype] = torch.empty(chunk, dtype=dtype, device="cpu")
            magnitude = buffers[dtype][: values.numel()].view(values.shape)
        if values.dtype is dtype:
            torch.abs(values, out=magnitude)
        else:
            magnitude.copy_(values).abs_()
        owners += members
        sums.append(magnitude.sum(-1))
        largest.append(magnitude.amax(-1))
        squares.append(torch.mul(magnitude, magnitude, out=magnitude).sum(-1))
    if not owners:
        return torch.zeros(len(entries), 4, dtype=torch.float64, device="cpu")
    columns = [torch.cat(column).double() for column in (sums, squares, largest)]
    result = _together(owners, torch.stack([*columns, torch.zeros_like(columns[0])], 1), entries)

    total, square, top, _ = result.unbind(1)
    least = [values.numel() * _FP32_MEAN_SQUARE for values in entries]
    floor = torch.tensor(least, dtype=torch.float64, device="cpu")
    suspect = ~(total + square).isfinite() | ((square < floor) & (top > 0))
    # How many there are is a shape, which a CPU knows without anything to wait for.
    again = suspect.nonzero().flatten()
    if len(again):
        suspects = [entries[index] for index in again.tolist()]
        pieces = [(members, _statistics(values)) for members, values in _pieces(suspects, chunk)]
        owners = [owner for members, _ in pieces for owner in members]
        result[again] = _together(owners, torch.cat([rows for _, rows in pieces]), suspects)
    return result


def _together(owners: Sequence[int], rows: Tensor, entries: Sequence[Tensor]) -> Tensor:
    """(rows, 4) of pieces, with the gradient that each is of -> (n, 4) of the gradients."""
    owner = torch.tensor(owners, device=rows.device)
    result = rows.new_zeros(len(entries), 4).index_add_(0, owner, rows)
    result[:, 2] = 0
    result[:, 2].scatter_reduce_(0, owner, rows[:, 2], "amax")
    return result
