"""The residual sum and what weighs its two sides: modules, so that a hook can attach to them."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradlab.errors import one_of
from gradlab.models.config import ModelConfig


class Residual(nn.Module):
    """λ_resid ⊙ α x + Sublayer(x); without them the plain sum (NormFormer, section 3.1).

    Dropout stands on the sublayer's output, and stochastic depth drops it for whole sequences. The
    sum has the dtype of the skip, which is the weights' dtype: a narrower sublayer output is
    promoted.

    Args:
        scale: Length of λ_resid: d_model for a vector, 1 for a scalar, 0 for none.
        dropout: Probability of zeroing an entry of the sublayer's output in training.
        alpha: A constant factor on the skip.
        drop: Probability of dropping the sublayer's output of a sequence in training.
    """

    def __init__(self, scale: int, dropout: float, *, alpha: float = 1.0, drop: float = 0.0):
        super().__init__()
        self.lambda_resid = nn.Parameter(torch.ones(scale)) if scale else None
        self.dropout = dropout
        self.alpha = alpha
        self.drop = drop

    def forward(self, skip: Tensor, sublayer: Tensor) -> Tensor:
        """Sum two (B, T, d_model) tensors."""
        if self.dropout:
            sublayer = F.dropout(sublayer, self.dropout, self.training)
        if self.drop and self.training:
            sublayer = drop_branches(sublayer, self.drop)
        if self.alpha != 1.0:
            skip = self.alpha * skip
        if self.lambda_resid is not None:
            skip = self.lambda_resid * skip
        return skip + sublayer


def drop_branches(branch: Tensor, probability: float) -> Tensor:
    """0 for a random share of the sequences, the others divided by the share that is left.

    Stochastic depth (Huang et al., 2016) with the factor in training instead of at inference. The
    paper drops a branch for a whole mini-batch; here each sequence has a draw of its own, so that
    every parameter has a gradient at every step.

    Args:
        branch: (B, T, d_model).
        probability: Of a sequence's being dropped, below 1.
    """
    draws = torch.rand(len(branch), 1, 1, device=branch.device)
    return torch.where(draws < probability, 0.0, branch / (1 - probability))


def drop_probability(config: ModelConfig, layer: int) -> float:
    """1 − p_l = l / L · (1 − p_L), l a layer's number counted from 1 (Huang et al., 2016, eq. 4).

    Args:
        config: The model, of which `stochastic_depth` is 1 − p_L.
        layer: The layer's 0-based number.
    """
    return (layer + 1) / config.n_layers * config.stochastic_depth


def alpha(config: ModelConfig) -> float:
    """The constant on the skip: DeepNorm's is (2L)^¼ in a decoder (Wang et al., 2022, figure 2).

    Raises:
        ConfigError: The kind is unknown.
    """
    values = {"one": 1.0, "deepnorm": float((2 * config.n_layers) ** 0.25)}
    return one_of("skip_scale", config.skip_scale, values)


class BranchScale(nn.Module):
    """A learned factor on a sublayer's output: `gamma`, one number or (d_model,).

    Args:
        size: How many entries it has.
        start: Their initial value.
    """

    def __init__(self, size: int, start: float) -> None:
        super().__init__()
        self.initial: Mapping[str, float] = {"gamma": start}
        self.gamma = nn.Parameter(torch.full((size,), start))

    def forward(self, branch: Tensor) -> Tensor:
        """(B, T, d_model) → the same, in the weights' dtype if that is wider."""
        return self.gamma * branch


def make_branch_scales(config: ModelConfig) -> tuple[BranchScale | None, BranchScale | None]:
    """The factors on attention and FFN of one layer.

    ReZero's a is 0 at first, and the attention's is the FFN's too (Bachlechner et al., 2020,
    section 5): there is no second one. LayerScale's λ is a vector each, the smaller the deeper the
    model (Touvron et al., 2021, section 2).

    Raises:
        ConfigError: The kind is unknown.
    """
    d_model = config.d_model
    if config.branch_scale == "rezero":
        return BranchScale(1, 0.0), None
    start = {"none": None, "layerscale": _layerscale_start(config.n_layers)}
    value = one_of("branch_scale", config.branch_scale, start)
    if value is None:
        return None, None
    return BranchScale(d_model, value), BranchScale(d_model, value)


def _layerscale_start(n_layers: int) -> float:
    return 0.1 if n_layers <= 18 else 1e-5 if n_layers <= 24 else 1e-6
