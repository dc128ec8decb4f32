"""The kinds of norm, each with its own affine parameters.

Statistics in fp32 or wider, the result in the weights' dtype: CPU autocast would leave a norm of
fp16 values in fp16, CUDA's would return fp32 whatever the weights are.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradlab.errors import one_of
from gradlab.models.config import NormKind
from gradlab.models.numerics import at_least_fp32, cast

EPS = 1e-5
"""fairseq's LayerNorm epsilon."""


class LayerNorm(nn.Module):
    """(x − E[x]) / √(Var[x] + ε) ⊙ γ + β over the last dimension (Ba et al., 2016).

    γ is `weight`, β is `bias`, both (d,).
    """

    def __init__(self, d: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d))
        self.bias = nn.Parameter(torch.zeros(d))

    def forward(self, x: Tensor) -> Tensor:
        """(..., d) → (..., d), in the weights' dtype."""
        weight = self.weight
        wide = at_least_fp32(weight.dtype)
        gamma, beta = cast(weight, wide), cast(self.bias, wide)
        return cast(F.layer_norm(cast(x, wide), weight.shape, gamma, beta, EPS), weight.dtype)


class RMSNorm(nn.Module):
    """x / √(E[x²] + ε) ⊙ γ over the last dimension (Zhang & Sennrich, 2019): no mean, no bias.

    γ is `weight`, (d,).
    """

    def __init__(self, d: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d))

    def forward(self, x: Tensor) -> Tensor:
        """(..., d) → (..., d), in the weights' dtype."""
        weight = self.weight
        wide = at_least_fp32(weight.dtype)
        y = F.rms_norm(cast(x, wide), weight.shape, cast(weight, wide), EPS)
        return cast(y, weight.dtype)


_NORMS: dict[str, Callable[[int], nn.Module]] = {"layernorm": LayerNorm, "rmsnorm": RMSNorm}


def make_norm(kind: NormKind, d: int) -> nn.Module:
    """A new norm of the kind over d channels.

    Raises:
        ConfigError: The kind is unknown.
    """
    return one_of("norm", kind, _NORMS)(d)
