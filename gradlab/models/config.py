"""The shape of a model, and which normalisations, scales and initial values it has."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Self

from pydantic import ConfigDict, Field, model_validator

from gradlab.base_config import Config

Placement = Literal["pre", "post", "mix", "hybrid", "none"]
NormKind = Literal["layernorm", "rmsnorm", "scalenorm", "dyt", "batchnorm"]
QkNorm = Literal["none", "heads", "width", "heads-and-v"]
SkipScale = Literal["one", "deepnorm"]
BranchScale = Literal["none", "rezero", "layerscale"]
Init = Literal["fairseq", "xavier", "kaiming", "gpt2", "deepnorm", "admin"]
HeadScalePlace = Literal["none", "heads", "output"]
ResScale = Literal["none", "ffn", "both", "ffn-scalar", "both-scalar"]
Objective = Literal["causal", "masked"]
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
    "scalenorm": NormFacts("ScaleNorm", "SN", lambda _: 1),
    "dyt": NormFacts("DyT", "DyT", lambda channels: 2 * channels + 1),
    "batchnorm": NormFacts("BatchNorm", "BN", lambda channels: 2 * channels),
}
"""The kinds of norm, by the names of `NormKind`."""


class ModelConfig(Config):
    """The shape of a transformer of one stack and which normalisations stand in its blocks.

    The four operations of the paper are four independent switches: `head_scale`, `attn_out_norm`,
    `ffn_mid_norm` and `res_scale`. `gradlab.model_config` fills them in by architecture name.
    """

    model_config = ConfigDict(title="The model: what overrides the architecture and the size")

    objective: Objective = "causal"
    """What is learned: causal (the next token, from those before it), masked (15 % of the tokens,
    from all others, as RoBERTa; the vocabulary has one id more, the mask's)."""
    d_model: int = Field(ge=2, multiple_of=2)
    """Width of the residual stream."""
    n_layers: int = Field(ge=1)
    """Blocks."""
    n_heads: int = Field(ge=1)
    """Attention heads; divides the width."""
    d_ff: int = Field(ge=1)
    """Inner width of the FFN."""
    vocab_size: int = Field(default=256, ge=2)
    """Token ids, a masked model's mask among them."""
    max_seq_len: int = Field(ge=1)
    """Tokens of the longest sequence."""
    placement: Placement = "pre"
    """Where the norms stand: pre (x + f(LN(x)), with a final norm), post (LN(x + f(x))), mix (the
    first quarter of the layers post, the rest pre), hybrid (x + f(x) for attention, LN(x) +
    f(LN(x)) for the FFN), none (x + f(x))."""
    norm: NormKind = "layernorm"
    """Kind of norm: layernorm; rmsnorm (no mean subtraction, no bias); scalenorm (one learned
    length); dyt (tanh in place of a norm); batchnorm (over the batch and its positions: in
    training a token sees later ones)."""
    head_scale: HeadScalePlace = "none"
    """A learned γ a head: none, heads (before the output projection, as in the paper), output
    (after it, as in the published fairseq code)."""
    attn_out_norm: bool = False
    """A norm on the attention's output, before the residual sum."""
    ffn_out_norm: bool = False
    """A norm on the FFN's output, before the residual sum; with pre and --attn-out-norm the
    sandwich."""
    ffn_mid_norm: bool = False
    """A norm after the FFN's activation."""
    embed_norm: bool = False
    """A norm on the embeddings, positions included."""
    qkv_norm: bool = False
    """Norms over d_model on the queries, keys and values (+3 more LN, Table 4)."""
    qk_norm: QkNorm = "none"
    """Norms on the queries and keys: none, heads (over each head's channels), width (over d_model),
    heads-and-v (over each head's channels, the values too)."""
    ln_scaling: bool = False
    """Divide the norm before each sublayer by √layer, counted from 1 (LayerNorm Scaling)."""
    res_scale: ResScale = "none"
    """A learned λ_resid on the skip, a vector or a scalar: none, ffn, both, ffn-scalar,
    both-scalar."""
    skip_scale: SkipScale = "one"
    """A constant α on the skip: one, deepnorm ((2 · layers)^¼)."""
    branch_scale: BranchScale = "none"
    """A learned factor on each sublayer's output: none, rezero (one number a layer, 0 at first),
    layerscale (a vector, small at first)."""
    stochastic_depth: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of the last layer's branches that are dropped in training, rising from the first layer
    in proportion to its number."""
    weight_standardisation: bool = False
    """Every matrix of a layer with rows of mean 0 and length 1."""
    activation: Activation = "gelu"
    """Of the FFN: gelu (exact), relu2, geglu (fc1 then has a gate and a value)."""
    score_cap: float | None = Field(default=None, gt=0.0)
    """Cap the attention's scores smoothly: c · tanh(score / c)."""
    logit_cap: float | None = Field(default=None, gt=0.0)
    """Cap the logits smoothly."""
    positions: Positions = "sinusoidal"
    """Positions: sinusoidal (fairseq's layout), learned."""
    init: Init = "fairseq"
    """Initial values: fairseq, xavier, kaiming, gpt2 (smaller into the residual with depth),
    deepnorm (likewise), admin (fairseq's, and the skips weighed by a first pass)."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """On embeddings, attention probabilities and sublayer outputs."""
    attention: AttentionPath = "materialised"
    """materialised: the scores are a tensor that can overflow, as in the paper; sdpa: a fused
    kernel keeps them in fp32 and out of reach."""

    @property
    def is_causal(self) -> bool:
        """Whether attention goes back only."""
        return self.objective == "causal"

    @property
    def loss_unit(self) -> str:
        """What a loss is of: nats, of which tokens."""
        return "nats a token" if self.is_causal else "nats a masked token"

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.d_model % self.n_heads:
            raise ValueError(
                f"the width, d_model = {self.d_model}, is not divisible by n_heads = "
                f"{self.n_heads}: choose a multiple."
            )
        return self

    @model_validator(mode="after")
    def _switches_go_together(self) -> Self:
        for is_wrong, sentence in _REFUSED:
            if is_wrong(self):
                raise ValueError(sentence)
        return self


_REFUSED: Sequence[tuple[Callable[[ModelConfig], bool], str]] = (
    (
        lambda c: c.qkv_norm and c.qk_norm != "none",
        "qkv_norm and qk_norm both put norms on the queries and keys: choose one.",
    ),
    (
        lambda c: c.ln_scaling and c.placement != "pre",
        "ln_scaling divides the norm before a sublayer: it needs placement = 'pre'.",
    ),
    (
        lambda c: c.skip_scale == "deepnorm" and c.placement != "post",
        "skip_scale = 'deepnorm' needs placement = 'post': without a norm on the sum the stream "
        "would grow by α at every sublayer.",
    ),
    (
        lambda c: c.skip_scale == "deepnorm" and c.res_scale != "none",
        "skip_scale and res_scale both weigh the skip: choose one.",
    ),
    (
        lambda c: (
            c.branch_scale == "rezero"
            and (c.placement != "none" or c.attn_out_norm or c.ffn_out_norm)
        ),
        "branch_scale = 'rezero' takes the norms' place, as a branch of weight 0 leaves the stream "
        "as it is: it needs placement = 'none' without attn_out_norm and ffn_out_norm.",
    ),
    (
        lambda c: c.init == "admin" and (c.placement != "post" or c.res_scale != "both"),
        "init = 'admin' weighs a skip that a norm follows: it needs placement = 'post' and "
        "res_scale = 'both'.",
    ),
    (
        lambda c: c.score_cap is not None and c.attention != "materialised",
        "score_cap needs attention = 'materialised': a fused kernel does not cap its scores.",
    ),
)
"""What does not go together, and why."""
