"""One layer of the transformer, a class for each placement of its norms."""

from torch import Tensor, nn

from gradlab.errors import one_of
from gradlab.models.attention import make_attention
from gradlab.models.config import ModelConfig
from gradlab.models.cost import lambda_sizes, layer_norms, placement_of
from gradlab.models.feed_forward import FeedForward
from gradlab.models.norms import make_norm, norm_scale
from gradlab.models.numerics import optional
from gradlab.models.residual import Residual, alpha, drop_probability, make_branch_scales


class Block(nn.Module):
    """The parts that a layer has in any placement; subclasses say in which order they stand.

    What the config switches off is None: a norm on a sublayer's output, a factor on it, LayerNorm
    Scaling. The other switches act inside `attention`, `feed_forward` and the residual sums.

    Args:
        config: The model.
        layer: The layer's 0-based number.
    """

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        norm, d_model = config.norm, config.d_model
        attn_lambda, ffn_lambda = lambda_sizes(config)
        has_attn_norm, has_ffn_norm = layer_norms(config)
        sums = {"alpha": alpha(config), "drop": drop_probability(config, layer)}
        attn_scale, ffn_scale = make_branch_scales(config)
        self.shares_scale = config.branch_scale == "rezero"
        self.attn_norm = make_norm(norm, d_model) if has_attn_norm else None
        self.attn_norm_scale = norm_scale(config, layer)
        self.attention = make_attention(config)
        self.attn_out_norm = make_norm(norm, d_model) if config.attn_out_norm else None
        self.attn_scale = attn_scale
        self.attn_residual = Residual(attn_lambda, config.dropout, **sums)
        self.ffn_norm = make_norm(norm, d_model) if has_ffn_norm else None
        self.ffn_norm_scale = norm_scale(config, layer)
        self.feed_forward = FeedForward(config)
        self.ffn_out_norm = make_norm(norm, d_model) if config.ffn_out_norm else None
        self.ffn_scale = ffn_scale
        self.ffn_residual = Residual(ffn_lambda, config.dropout, **sums)

    def mha(self, x: Tensor, visible: Tensor | None) -> Tensor:
        """The attention's branch: λ ⊙ LN(MHA(x / √l)), of which λ, LN and √l are switches."""
        y = self.attention(optional(self.attn_norm_scale, x), visible)
        return optional(self.attn_scale, optional(self.attn_out_norm, y))

    def ffn(self, x: Tensor) -> Tensor:
        """The FFN's branch: λ ⊙ LN(FFN(x / √l)), likewise."""
        y = self.feed_forward(optional(self.ffn_norm_scale, x))
        scale = self.attn_scale if self.shares_scale else self.ffn_scale
        return optional(scale, optional(self.ffn_out_norm, y))


class PreNormBlock(Block):
    """x = x + MHA(LN(x)); x = λ ⊙ x + FFN(LN(x)) (NormFormer, eq. 2 and 3).

    With nothing but the inner norms it is Pre-LN, with norms on both branches the sandwich (Ding
    et al., 2021) and Peri-LN (Kim et al., 2025). The skip is never normed, so gradients reach every
    layer undamped, the early ones the most.
    """

    def forward(self, x: Tensor, visible: Tensor | None = None) -> Tensor:
        """(B, T, d_model) → the same; `visible` as of `Attention`."""
        x = self.attn_residual(x, self.mha(optional(self.attn_norm, x), visible))
        y: Tensor = self.ffn_residual(x, self.ffn(optional(self.ffn_norm, x)))
        return y


class PostNormBlock(Block):
    """x = LN(x + MHA(x)); x = LN(x + FFN(x)) (Vaswani et al., 2017).

    The norm stands on the skip itself, which bounds the stream and damps gradients layer by layer.
    DeepNorm (Wang et al., 2022) and Admin (Liu et al., 2020) weigh the skip more.
    """

    def forward(self, x: Tensor, visible: Tensor | None = None) -> Tensor:
        """(B, T, d_model) → the same; `visible` as of `Attention`."""
        x = optional(self.attn_norm, self.attn_residual(x, self.mha(x, visible)))
        return optional(self.ffn_norm, self.ffn_residual(x, self.ffn(x)))


class HybridNormBlock(Block):
    """y = x + MHA(x); x = LN(y) + FFN(LN(y)) (HybridNorm, Zhuo et al., 2025).

    Attention has norms on its queries, keys and values in place of one before it.
    """

    def forward(self, x: Tensor, visible: Tensor | None = None) -> Tensor:
        """(B, T, d_model) → the same; `visible` as of `Attention`."""
        y = optional(self.ffn_norm, self.attn_residual(x, self.mha(x, visible)))
        z: Tensor = self.ffn_residual(y, self.ffn(y))
        return z


class PlainBlock(Block):
    """x = x + MHA(x); x = x + FFN(x), with no norm on the stream or before a sublayer.

    With norms on both branches it is OLMo 2's reordered norm (2024), with factors of 0 on them
    ReZero (Bachlechner et al., 2020).
    """

    def forward(self, x: Tensor, visible: Tensor | None = None) -> Tensor:
        """(B, T, d_model) → the same; `visible` as of `Attention`."""
        x = self.attn_residual(x, self.mha(x, visible))
        z: Tensor = self.ffn_residual(x, self.ffn(x))
        return z


_PLACEMENTS: dict[str, type[Block]] = {
    "pre": PreNormBlock,
    "post": PostNormBlock,
    "hybrid": HybridNormBlock,
    "none": PlainBlock,
}


def make_block(config: ModelConfig, layer: int) -> Block:
    """The layer of a 0-based number, with the placement that the config has there.

    Raises:
        ConfigError: A kind in the config is unknown.
    """
    return one_of("placement", placement_of(config, layer), _PLACEMENTS)(config, layer)
