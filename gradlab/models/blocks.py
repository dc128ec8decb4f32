"""One layer of the transformer, a class for each placement of its norms."""

from torch import Tensor, nn

from gradlab.errors import one_of
from gradlab.models.attention import make_attention
from gradlab.models.config import ModelConfig
from gradlab.models.cost import lambda_sizes
from gradlab.models.feed_forward import FeedForward
from gradlab.models.norms import make_norm
from gradlab.models.numerics import optional
from gradlab.models.residual import Residual


class Block(nn.Module):
    """The parts that a layer has in either placement; subclasses say in which order they stand.

    `attn_out_norm` is None where the config switches it off; the other switches act inside
    `attention`, `feed_forward` and the two residual sums.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        norm, d_model = config.norm, config.d_model
        attn_scale, ffn_scale = lambda_sizes(config)
        self.attn_norm = make_norm(norm, d_model)
        self.attention = make_attention(config)
        self.attn_out_norm = make_norm(norm, d_model) if config.attn_out_norm else None
        self.attn_residual = Residual(attn_scale, config.dropout)
        self.ffn_norm = make_norm(norm, d_model)
        self.feed_forward = FeedForward(config)
        self.ffn_residual = Residual(ffn_scale, config.dropout)


class PreNormBlock(Block):
    """x = x + LN(MHA(LN(x))); x = λ ⊙ x + FFN(LN(x)) (NormFormer, eq. 2 and 3).

    With nothing but the inner norms it is Pre-LN. The skip is never normed, so gradients reach
    every layer undamped, the early ones the most.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, d_model) → the same, causal."""
        x = self.attn_residual(x, optional(self.attn_out_norm, self.attention(self.attn_norm(x))))
        y: Tensor = self.ffn_residual(x, self.feed_forward(self.ffn_norm(x)))
        return y


class PostNormBlock(Block):
    """x = LN(x + MHA(x)); x = LN(x + FFN(x)) (Vaswani et al., 2017).

    The norm stands on the skip itself, which bounds the stream and damps gradients layer by layer.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, d_model) → the same, causal."""
        x = self.attn_norm(self.attn_residual(x, optional(self.attn_out_norm, self.attention(x))))
        y: Tensor = self.ffn_norm(self.ffn_residual(x, self.feed_forward(x)))
        return y


_PLACEMENTS: dict[str, type[Block]] = {"pre": PreNormBlock, "post": PostNormBlock}


def make_block(config: ModelConfig) -> Block:
    """A layer with the config's placement.

    Raises:
        ConfigError: A kind in the config is unknown.
    """
    return one_of("placement", config.placement, _PLACEMENTS)(config)
