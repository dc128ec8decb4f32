"""Linear maps under the dtype rule."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x·Wᵀ + b in autocast's dtype where autocast is on, else in the weights' dtype.

    Args:
        x: (..., d_in).
        weight: (d_out, d_in).
        bias: (d_out,) or None.

    Returns:
        (..., d_out).
    """
    if x.dtype != weight.dtype and not torch.is_autocast_enabled(x.device.type):
        x = x.to(weight.dtype)
    return F.linear(x, weight, bias)


class Linear(nn.Linear):
    """x·Wᵀ + b, (..., d_in) → (..., d_out), by `linear`'s dtype rule."""

    def forward(self, input: Tensor) -> Tensor:
        """Apply the map."""
        return linear(input, self.weight, self.bias)
