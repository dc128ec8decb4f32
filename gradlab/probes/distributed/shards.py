"""Statistics of tensors that are spread over processes: what FSDP2's parameters are."""

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from gradlab.parallel.spread import is_spread

Statistics = Callable[[Sequence[Tensor]], Tensor]


def over_shards(tensors: Sequence[Tensor], statistics: Statistics) -> Tensor:
    """Statistics of each tensor as a whole, of which a process may hold only a part.

    Args:
        tensors: On one device; a DTensor's parts are put together by collective calls, two for
            all tensors that are spread in the same way.
        statistics: Gives (n, 4) of n tensors: sum, sum, maximum, count.

    Returns:
        (n, 4), the same on every process.
    """
    if not any(map(is_spread, tensors)):
        return statistics(tensors)
    found = statistics([_local(tensor) for tensor in tensors])
    spread: dict[tuple[dist.ProcessGroup, ...], list[int]] = {}
    for index, tensor in enumerate(tensors):
        if groups := _sharded_over(tensor):
            spread.setdefault(groups, []).append(index)
    for groups, indices in spread.items():
        # Row by row: a list as an index is copied to the device, which waits for it.
        first, second, largest, count = torch.stack([found[at] for at in indices]).unbind(1)
        sums, largest = torch.stack([first, second, count]), largest.contiguous()
        for group in groups:
            dist.all_reduce(sums, group=group)
            dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=group)
        whole_rows = torch.stack([sums[0], sums[1], largest, sums[2]], dim=1)
        for at, row in zip(indices, whole_rows, strict=True):
            found[at] = row
    return found


def _local(x: Tensor) -> Tensor:
    if not is_spread(x):
        return x
    from torch.distributed.tensor import Partial, Replicate

    if any(isinstance(placement, Partial) for placement in x.placements):
        x = x.redistribute(
            placements=[Replicate() if isinstance(p, Partial) else p for p in x.placements]
        )
    return x.to_local()


def _sharded_over(x: Tensor) -> tuple[dist.ProcessGroup, ...]:
    """The process groups, one a mesh dimension, over which parts of a tensor lie."""
    if not is_spread(x):
        return ()
    mesh = x.device_mesh
    return tuple(
        mesh.get_group(dim) for dim, placement in enumerate(x.placements) if placement.is_shard()
    )
