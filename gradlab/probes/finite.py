"""Which of many tensors hold inf or NaN, at the cost of one read of each."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from gradlab.probes import fused
from gradlab.probes.statistics import extremes, is_finite_on_cpu

_SMALL = 4096
"""Entries up to which tensors on a CPU are looked at together: calls take longer than the reads."""


@torch.no_grad()
def not_finite(tensors: Sequence[Tensor]) -> tuple[list[int], Tensor, bool]:
    """Look at tensors of one device.

    On a CPU, where nothing waits for that, those that are finite are left out and the entries of
    the others counted. On a GPU no number is read on the host: it is said of all of them, and
    where Triton is missing whether such entries are there takes the place of their count.

    Args:
        tensors: 1-D, of a floating-point type, with entries; one at least.

    Returns:
        Their indices; (n, 2) fp64 of these, infinite entries and NaNs; whether they are counted.
    """
    if not tensors[0].is_cpu:
        if (counted := fused.statistics(tensors)) is not None:
            return list(range(len(tensors))), counted[:, 3:5], False
        groups = _by_dtype(tensors, range(len(tensors)))
        norms = [torch._foreach_norm([tensors[i] for i in of], math.inf) for of in groups]
        largest = torch.cat([torch.stack(of).double() for of in norms])
        found = torch.stack([largest.isinf(), largest.isnan()], 1)
        return [index for of in groups for index in of], found, False
    suspects: list[int] = []
    small = [i for i, x in enumerate(tensors) if x.numel() <= _SMALL]
    for indices in _by_dtype(tensors, small):
        if not _finite(torch.cat([tensors[i] for i in indices])):
            suspects += indices
    large = [i for i, x in enumerate(tensors) if x.numel() > _SMALL]
    for indices in _by_dtype(tensors, large):
        if tensors[indices[0]].itemsize < 4:
            suspects += indices
            continue
        # The quickest read. Numbers whose squares overflow are looked at twice.
        if not _finite(torch.stack(torch._foreach_norm([tensors[i] for i in indices]))):
            suspects += indices
    found_in = [i for i in suspects if not _finite(tensors[i])]
    found_in.sort()
    counts = [torch.stack([tensors[i].isinf().sum(), tensors[i].isnan().sum()]) for i in found_in]
    whole = torch.stack(counts) if counts else torch.empty(0, 2, device="cpu")
    return found_in, whole.double(), True


def _finite(x: Tensor) -> bool:
    return is_finite_on_cpu(*extremes(x))


def _by_dtype(tensors: Sequence[Tensor], indices: Sequence[int]) -> list[list[int]]:
    groups: dict[torch.dtype, list[int]] = {}
    for index in indices:
        groups.setdefault(tensors[index].dtype, []).append(index)
    return list(groups.values())
