"""Linear maps under the dtype rule."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradlab.models.config import ModelConfig
from gradlab.models.numerics import at_least_fp32, cast


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

    def reset_parameters(self) -> None:
        """Torch's initial values; on `meta`, where none can be drawn, that would take a while."""
        if not self.weight.is_meta:
            super().reset_parameters()

    def forward(self, input: Tensor) -> Tensor:
        """Apply the map."""
        return linear(input, self.weight, self.bias)


class StandardisedLinear(Linear):
    """x·Ŵᵀ + b, where each row of Ŵ has mean 0 and length 1 (Qiao et al., 2019).

    The paper's rows have variance 1, and a norm after every map takes their length out again. Here
    not every map has one: they are divided by √fan_in, as in Brock et al. (2021, section 3).
    """

    def forward(self, input: Tensor) -> Tensor:
        """Apply the map."""
        return linear(input, standardised(self.weight), self.bias)


def standardised(weight: Tensor) -> Tensor:
    """(W − E[W]) / √((Var[W] + ε) · fan_in), a row each: (d_out, d_in) → the same, in its dtype."""
    wide = cast(weight, at_least_fp32(weight.dtype))
    rows = F.layer_norm(wide, wide.shape[1:], eps=_EPS)
    return cast(rows * weight.shape[1] ** -0.5, weight.dtype)


_EPS = 1e-10
"""Beside a variance of 1/(3 · fan_in), as the initial values have."""


def make_linear(config: ModelConfig, d_in: int, d_out: int) -> Linear:
    """A linear map of a layer, as the config has them."""
    return (StandardisedLinear if config.weight_standardisation else Linear)(d_in, d_out)
