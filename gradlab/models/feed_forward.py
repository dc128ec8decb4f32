"""The feed-forward sublayer and its activations."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradlab.errors import one_of
from gradlab.models.config import ModelConfig
from gradlab.models.cost import fc1_width
from gradlab.models.linear import make_linear
from gradlab.models.norms import make_norm
from gradlab.models.numerics import at_least_fp32, cast, optional


class Gelu(nn.Module):
    """x · Φ(x) with the exact normal distribution function (Hendrycks & Gimpel, 2016)."""

    def forward(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """(..., d_ff) → the same, computed in fp32 or wider and returned in `dtype`."""
        return cast(F.gelu(cast(x, at_least_fp32(dtype))), dtype)


class ReluSquared(nn.Module):
    """max(x, 0)² (So et al., 2021)."""

    def forward(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """(..., d_ff) → the same, computed in fp32 or wider and returned in `dtype`."""
        return cast(F.relu(cast(x, at_least_fp32(dtype))).square(), dtype)


class GeGlu(nn.Module):
    """GELU(gate) ⊙ value, the two halves of the input in that order (Shazeer, 2020)."""

    def forward(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """(..., 2·d_ff) → (..., d_ff), computed in fp32 or wider and returned in `dtype`."""
        gate, value = cast(x, at_least_fp32(dtype)).chunk(2, dim=-1)
        return cast(F.gelu(gate) * value, dtype)


_ACTIVATIONS = {"gelu": Gelu, "relu2": ReluSquared, "geglu": GeGlu}


class FeedForward(nn.Module):
    """FFN(x) = LN(σ(xW₁ + b₁))W₂ + b₂, its LN only with `ffn_mid_norm` (NormFormer, eq. 3)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.fc1 = make_linear(config, config.d_model, fc1_width(config))
        self.activation = one_of("activation", config.activation, _ACTIVATIONS)()
        self.ffn_mid_norm = make_norm(config.norm, config.d_ff) if config.ffn_mid_norm else None
        self.fc2 = make_linear(config, config.d_ff, config.d_model)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, d_model) → the same."""
        hidden = self.activation(self.fc1(x), self.fc1.weight.dtype)  # (B, T, d_ff)
        y: Tensor = self.fc2(optional(self.ffn_mid_norm, hidden))
        return y
