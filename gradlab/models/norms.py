"""The kinds of norm, each with its own affine parameters.

Statistics in fp32 or wider, the result in the weights' dtype: CPU autocast would leave a norm of
fp16 values in fp16, CUDA's would return fp32 whatever the weights are.
"""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradlab.errors import one_of
from gradlab.models.config import ModelConfig, NormKind
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


class ScaleNorm(nn.Module):
    """g · x / ‖x‖ over the last dimension (Nguyen & Salazar, 2019, eq. 6).

    g is `weight`, (1,), √d at first; ‖x‖ is no less than ε.
    """

    def __init__(self, d: int) -> None:
        super().__init__()
        self.initial: Mapping[str, float] = {"weight": math.sqrt(d)}
        self.weight = nn.Parameter(torch.full((1,), math.sqrt(d)))

    def forward(self, x: Tensor) -> Tensor:
        """(..., d) → (..., d), in the weights' dtype."""
        weight = self.weight
        wide = at_least_fp32(weight.dtype)
        return cast(cast(weight, wide) * F.normalize(cast(x, wide), dim=-1, eps=EPS), weight.dtype)


class DynamicTanh(nn.Module):
    """γ ⊙ tanh(αx) + β, in place of a norm (DyT, Zhu et al., 2025, eq. 3): no statistics at all.

    α is `alpha`, (1,), 0.5 at first; γ is `weight`, β is `bias`, both (d,).
    """

    def __init__(self, d: int) -> None:
        super().__init__()
        self.initial: Mapping[str, float] = {"alpha": 0.5}
        self.alpha = nn.Parameter(torch.full((1,), 0.5))
        self.weight = nn.Parameter(torch.ones(d))
        self.bias = nn.Parameter(torch.zeros(d))

    def forward(self, x: Tensor) -> Tensor:
        """(..., d) → (..., d), in the weights' dtype."""
        weight = self.weight
        wide = at_least_fp32(weight.dtype)
        squashed = torch.tanh(cast(self.alpha, wide) * cast(x, wide))
        return cast(cast(weight, wide) * squashed + cast(self.bias, wide), weight.dtype)


class BatchNorm(nn.Module):
    """(x − E[x]) / √(Var[x] + ε) ⊙ γ + β, over batch and positions (Ioffe & Szegedy, 2015).

    In training a position sees the statistics of later ones, which a causal model must not; at
    inference it sees running means instead, which are of other weights. It is here to show both.

    γ is `weight`, β is `bias`; the buffers `running_mean` and `running_var` follow the batches'
    with a momentum of 0.1; all are (d,).
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, d: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d))
        self.bias = nn.Parameter(torch.zeros(d))
        self.register_buffer("running_mean", torch.zeros(d))
        self.register_buffer("running_var", torch.ones(d))

    def forward(self, x: Tensor) -> Tensor:
        """(..., d) → (..., d), in the weights' dtype."""
        weight = self.weight
        wide = at_least_fp32(weight.dtype)
        y = F.batch_norm(
            cast(x, wide).flatten(0, -2),
            self.running_mean,
            self.running_var,
            cast(weight, wide),
            cast(self.bias, wide),
            self.training,
            eps=EPS,
        )
        return cast(y, weight.dtype).view(x.shape)

    def _apply(self, fn, recurse=True):  # type: ignore[no-untyped-def]
        was_meta = self.running_mean.is_meta
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        # A model that leaves the meta device gets empty memory, and statistics stay wide.
        wide = at_least_fp32(self.weight.dtype)
        self.running_mean, self.running_var = self.running_mean.to(wide), self.running_var.to(wide)
        if was_meta and not self.running_mean.is_meta:
            self.running_mean.zero_()
            self.running_var.fill_(1.0)
        return self


_NORMS: dict[str, Callable[[int], nn.Module]] = {
    "layernorm": LayerNorm,
    "rmsnorm": RMSNorm,
    "scalenorm": ScaleNorm,
    "dyt": DynamicTanh,
    "batchnorm": BatchNorm,
}


def make_norm(kind: NormKind, d: int) -> nn.Module:
    """A new norm of the kind over d channels.

    Raises:
        ConfigError: The kind is unknown.
    """
    return one_of("norm", kind, _NORMS)(d)


class NormScale(nn.Module):
    """LayerNorm Scaling: what the norm gives over √l, l the layer counted from 1.

    It keeps the variance of Pre-LN's stream from growing with depth (Sun et al., 2025).

    Args:
        layer: The layer's 0-based number.
    """

    def __init__(self, layer: int) -> None:
        super().__init__()
        self.factor = 1 / math.sqrt(layer + 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, d_model) → the same."""
        return self.factor * x


def norm_scale(config: ModelConfig, layer: int) -> NormScale | None:
    """The scale behind a layer's norms, with `ln_scaling`."""
    return NormScale(layer) if config.ln_scaling else None
