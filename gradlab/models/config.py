"""The shape of a model, and which normalisations, scales and initial values it has."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Self

from pydantic import ConfigDict, Field, model_validator

from gradlab.base_config import Config

Placement = Literal["pre", "post"]
NormKind = Literal["layernorm", "rmsnorm"]
HeadScalePlace = Literal["none", "heads", "output"]
ResScale = Literal["none", "ffn", "both", "ffn-scalar", "both-scalar"]
Activation = Literal["gelu", "relu2", "geglu"]
AttentionPath = Literal["materialised", "sdpa"]
Positions = Literal["sinusoidal", "learned"]


@dataclass(frozen=True)
class NormFacts:
    """A kind of norm but for what it computes (`gradlab.models.norms`).

    Attributes:
        name: What it is called,
        short: and where there is little room.
        parameters: How many it has over so many channels.
    """

    name: str
    short: str
    parameters: Callable[[int], int]


NORMS: Mapping[str, NormFacts] = {
    "layernorm": NormFacts("LayerNorm", "LN", lambda channels: 2 * channels),
    "rmsnorm": NormFacts("RMSNorm", "RMS", lambda channels: channels),
}
"""The kinds of norm, by the names of `NormKind`."""


class ModelConfig(Config):
    """The shape of a decoder-only transformer and which normalisations stand in its blocks.

    The four operations of the paper are four independent switches: `head_scale`, `attn_out_norm`,
    `ffn_mid_norm` and `res_scale`. `gradlab.model_config` fills them in by architecture name.
    """

    model_config = ConfigDict(title="The model: what overrides the architecture and the size")

    d_model: int = Field(ge=2, multiple_of=2)
    """Width of the residual stream."""
    n_layers: int = Field(ge=1)
    """Blocks."""
    n_heads: int = Field(ge=1)
    """Attention heads; divides the width."""
    d_ff: int = Field(ge=1)
    """Inner width of the FFN."""
    vocab_size: int = Field(default=256, ge=2)
    """Token ids."""
    max_seq_len: int = Field(ge=1)
    """Tokens of the longest sequence."""
    placement: Placement = "pre"
    """Where the norms stand: pre (x + f(LN(x)), with a final norm) or post (LN(x + f(x)))."""
    norm: NormKind = "layernorm"
    """Kind of norm: layernorm, or rmsnorm (no mean subtraction, no bias)."""
    head_scale: HeadScalePlace = "none"
    """A learned γ a head: none, heads (before the output projection, as in the paper), output
    (after it, as in the published fairseq code)."""
    attn_out_norm: bool = False
    """A norm on the attention's output, before the residual sum."""
    ffn_mid_norm: bool = False
    """A norm after the FFN's activation."""
    qkv_norm: bool = False
    """Norms over d_model on the queries, keys and values (+3 more LN, Table 4)."""
    res_scale: ResScale = "none"
    """A learned λ_resid on the skip, a vector or a scalar: none, ffn, both, ffn-scalar,
    both-scalar."""
    activation: Activation = "gelu"
    """Of the FFN: gelu (exact), relu2, geglu (fc1 then has a gate and a value)."""
    positions: Positions = "sinusoidal"
    """Positions: sinusoidal (fairseq's layout), learned."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """On embeddings, attention probabilities and sublayer outputs."""
    attention: AttentionPath = "materialised"
    """materialised: the scores are a tensor that can overflow, as in the paper; sdpa: a fused
    kernel keeps them in fp32 and out of reach."""

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.d_model % self.n_heads:
            raise ValueError(
                f"the width, d_model = {self.d_model}, is not divisible by n_heads = "
                f"{self.n_heads}: choose a multiple."
            )
        return self
