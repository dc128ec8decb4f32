"""The small rules that every part of the model follows."""

import torch
from torch import Tensor, nn

_NARROW = (torch.float16, torch.bfloat16)


def at_least_fp32(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which statistics are computed: fp32 for the 16-bit types, else the same."""
    return torch.float32 if dtype in _NARROW else dtype


def cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """`x.to(dtype)`, without the call where x has that dtype: in a small model it shows."""
    return x if x.dtype is dtype else x.to(dtype)


def optional(operation: nn.Module | None, x: Tensor) -> Tensor:
    """`operation(x)`, or x itself where the operation is switched off (and has no module)."""
    if operation is None:
        return x
    y: Tensor = operation(x)
    return y
