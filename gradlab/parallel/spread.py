"""Tensors of which each process holds a part: what FSDP2's parameters are."""

import sys
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def is_spread(x: Any) -> "TypeGuard[DTensor]":
    """Whether a tensor is spread over processes."""
    if type(x) is Tensor or type(x) is nn.Parameter:
        return False
    # Importing that module takes as long as torch, and without it there can be no such tensor.
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(x, module.DTensor)


def whole(x: Tensor) -> Tensor:
    """The tensor as one process would have it. A collective call, on every process that has it."""
    return x.full_tensor() if is_spread(x) else x


def own_part(x: Tensor) -> Tensor:
    """What this process holds of a tensor: itself, unless it is spread. Shares its memory."""
    return x.to_local() if is_spread(x) else x


@torch.no_grad()
def fill(x: Tensor, values: Tensor) -> None:
    """Copy values into a tensor; into one that is spread, this process's part of them.

    Args:
        x: Changed in place.
        values: The whole, the same in every process, or spread as `x` is.
    """
    if is_spread(x) and not is_spread(values):
        from torch.distributed.tensor import distribute_tensor

        values = distribute_tensor(values, x.device_mesh, x.placements, src_data_rank=None)
    x.copy_(values)
