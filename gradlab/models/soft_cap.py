"""A smooth bound on scores and logits."""

import torch
from torch import Tensor, nn

from gradlab.models.numerics import at_least_fp32, cast


class SoftCap(nn.Module):
    """c · tanh(x / c): near x within ±c, and never beyond (Gemma 2, 2024, section 2).

    Args:
        cap: c.
    """

    def __init__(self, cap: float) -> None:
        super().__init__()
        self.cap = cap

    def forward(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """Any shape → the same, computed in fp32 or wider and returned in `dtype`."""
        return cast(self.cap * torch.tanh(cast(x, at_least_fp32(dtype)) / self.cap), dtype)


def make_cap(cap: float | None) -> SoftCap | None:
    """A cap at ±cap, or none."""
    return None if cap is None else SoftCap(cap)
