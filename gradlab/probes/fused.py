"""A GPU's looks in one read, by kernels of Triton's: a launch or two where torch needs hundreds."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gradlab.fp16 import FP16_MIN_NORMAL

_CHUNK = 65536
"""Entries of a program: few enough that all of a GPU is at work on a model of some size."""
_BLOCK = 2048
"""Entries that a program takes at a time."""
_TYPES = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}
"""Whose sums and squares fp64 holds, by Triton's names."""


@lru_cache
def kernels_of(device: torch.device) -> Any:
    """Triton's kernels, if a device has them: they are tried on it, once. Else None."""
    if device.type != "cuda":
        return None
    try:
        from gradlab.probes import kernels

        one = torch.ones(1, device=device)
        _statistics(kernels, [one])
        _details(kernels, one)
    except Exception:  # no Triton, no C compiler for it, a GPU or a torch that it does not know
        return None
    return kernels


def statistics(entries: Sequence[Tensor]) -> Tensor | None:
    """Seven numbers of each of several tensors on one device, in a launch a type and another.

    Returns:
        (n, 7) float64: Σ|x| and Σx² over the finite entries, then the five of `details`. None if
        there is no kernel here, or a tensor that they do not take.
    """
    kernels = kernels_of(entries[0].device)
    if kernels is None or not all(map(_is_plain, entries)):
        return None
    return _statistics(kernels, entries)


def takes(x: Tensor) -> bool:
    """Whether `statistics` has a kernel for this tensor."""
    return _is_plain(x) and kernels_of(x.device) is not None


def _is_plain(x: Tensor) -> bool:
    return type(x) is Tensor and x.dtype in _TYPES and x.layout is torch.strided


def details(x: Tensor) -> Tensor | None:
    """What `statistics.details` gives, in one launch; None if it has gaps, or no kernel is here."""
    kernels = kernels_of(x.device)
    if kernels is None or type(x) is not Tensor:
        return None
    flat = in_order(x)
    return _details(kernels, flat) if flat.is_contiguous() else None


def in_order(x: Tensor) -> Tensor:
    """A tensor's entries in the order of memory: a view, with gaps if it has."""
    if x.is_contiguous():
        return x
    strides = x.stride()
    return x.permute(sorted(range(x.dim()), key=lambda dim: -strides[dim]))


class _Layout(NamedTuple):
    """Who takes what, on the device: the arguments of `kernels.chunk_statistics`.

    Attributes:
        parts: Of each type: its name, its first chunk, and how many it has.
        spans: (n, 2) int32: each tensor's first chunk, and the end.
    """

    sizes: Tensor
    owners: Tensor
    chunks: Tensor
    spans: Tensor
    parts: tuple[tuple[str, int, int], ...]


@lru_cache(maxsize=16)
def _layout(
    sizes: tuple[int, ...], types: tuple[torch.dtype, ...], device: torch.device
) -> _Layout:
    owners: list[int] = []
    chunks: list[int] = []
    spans = [0] * (2 * len(sizes))
    parts = []
    for dtype in dict.fromkeys(types):
        base = len(owners)
        for owner, (size, own) in enumerate(zip(sizes, types, strict=True)):
            if own is dtype:
                count = -(-size // _CHUNK)
                spans[2 * owner : 2 * owner + 2] = len(owners), len(owners) + count
                owners += [owner] * count
                chunks += range(count)
        if len(owners) > base:
            parts.append((_TYPES[dtype], base, len(owners) - base))
    return _Layout(
        _sent(sizes, torch.int64, device),
        _sent(owners, torch.int32, device),
        _sent(chunks, torch.int32, device),
        _sent(spans, torch.int32, device).view(-1, 2),
        tuple(parts),
    )


def _sent(numbers: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """On the device, without waiting for it."""
    on_gpu = device.type == "cuda"
    there = torch.tensor(numbers, dtype=dtype, device="cpu", pin_memory=on_gpu)
    return there.to(device, non_blocking=on_gpu)


def _statistics(kernels: Any, entries: Sequence[Tensor]) -> Tensor:
    device = entries[0].device
    whole = [x if x.is_contiguous() else x.contiguous() for x in entries]
    sizes, types = tuple(x.numel() for x in whole), tuple(x.dtype for x in whole)
    layout = _layout(sizes, types, device)
    places = [x.data_ptr() for x in whole]
    aligned = all(place % 16 == 0 for place in places)
    with _on(device):
        addresses = _sent(places, torch.int64, device)
        rows = torch.empty(len(layout.owners), 7, dtype=torch.float64, device=device)
        found = torch.empty(len(whole), 7, dtype=torch.float64, device=device)
        for name, base, count in layout.parts:
            kernels.chunk_statistics[(count,)](
                addresses,
                layout.sizes,
                layout.owners,
                layout.chunks,
                rows,
                base,
                kind=getattr(kernels.tl, name),
                aligned=aligned,
                smallest=FP16_MIN_NORMAL,
                length=_CHUNK,
                block=_BLOCK,
                num_warps=8,
            )
        kernels.join_chunks[(len(whole),)](rows, layout.spans, found, width=8, block=64)
    return found


def _details(kernels: Any, flat: Tensor) -> Tensor:
    with _on(flat.device):
        row = torch.zeros(5, dtype=torch.float64, device=flat.device)
        if size := flat.numel():
            kernels.count_entries[(-(-size // _CHUNK),)](
                flat,
                size,
                row,
                smallest=FP16_MIN_NORMAL,
                length=_CHUNK,
                block=_BLOCK,
                num_warps=8,
            )
    return row


def _on(device: torch.device) -> AbstractContextManager[Any]:
    """Triton launches on the current device, which need not be a tensor's."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
