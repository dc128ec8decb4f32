"""Frozen configurations: everything that decides what a run does, checked when it is made.

An unknown key, a value outside its range and an impossible mix are all a `ConfigError`, whose
message is one sentence. `RunConfig` is what `run.json` holds.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from gradlab.errors import ConfigError, unknown

Placement = Literal["pre", "post"]
NormKind = Literal["layernorm", "rmsnorm"]
HeadScalePlace = Literal["none", "heads", "output"]
ResScale = Literal["none", "ffn", "both", "ffn-scalar", "both-scalar"]
Activation = Literal["gelu", "relu2", "geglu"]
AttentionPath = Literal["materialised", "sdpa"]
Positions = Literal["sinusoidal", "learned"]
PrecisionName = Literal["fp32", "bf16", "fp16", "fp16-pure"]
ProbeName = Literal["headroom", "grad_norms", "scales", "scores", "optimizer"]
ScheduleKind = Literal["constant", "linear", "cosine", "ramp"]


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

BASE_VARIANT = "base"
"""The variant of a run whose hyperparameters no study varies."""

NOT_BUILT = {
    "deepnorm": "the DeepNorm architecture",
    "mlm": "masked language modelling",
}
"""What the literature names and gradlab does not have yet: refused by name, not as a typo."""


class Config(BaseModel):
    """Base of the configurations: immutable, strict about keys, errors in one sentence."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def __init__(self, /, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigError(_sentence(type(self), error)) from None

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Self:
        """The config that a parsed TOML or JSON document describes."""
        return cls(**values)

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed, checked as a new config is."""
        return type(self)(
            **{**{name: getattr(self, name) for name in type(self).model_fields}, **changes}
        )


def _sentence(cls: type[BaseModel], error: ValidationError) -> str:
    """The first problem of a pydantic error as one sentence."""
    problem = error.errors()[0]
    path = ".".join(str(part) for part in problem["loc"])
    cause = problem.get("ctx", {}).get("error")
    if isinstance(cause, ValueError):
        return str(cause)
    if problem["type"] == "extra_forbidden":
        return unknown(f"key of {cls.__name__}", path, cls.model_fields)
    if problem["type"] == "literal_error":
        value = problem["input"]
        if isinstance(value, str) and value in NOT_BUILT:
            return f"{path} = {value!r}: {NOT_BUILT[value]} is not built yet."
        field = cls.model_fields.get(str(problem["loc"][0]))
        options = get_args(field.annotation) if field else ()
        if options and all(isinstance(option, str) for option in options):
            return unknown(path, value, options)
    if problem["type"] == "missing":
        return f"{cls.__name__} needs {path}."
    message = problem["msg"].replace("Input should be", "should be")
    return f"{path} = {problem['input']!r} {message}."


class ModelConfig(Config):
    """The shape of a decoder-only transformer and which normalisations stand in its blocks.

    The four operations of the paper are four independent switches: `head_scale`, `attn_out_norm`,
    `ffn_mid_norm` and `res_scale`. `gradlab.model_config` fills them in by architecture name.

    Attributes:
        d_model: Width of the residual stream.
        n_layers: Number of blocks.
        n_heads: Attention heads; divides d_model.
        d_ff: Inner width of the feed-forward network.
        vocab_size: Number of token ids.
        max_seq_len: Longest sequence.
        placement: `pre` (x + f(LN(x)), with a final norm) or `post` (LN(x + f(x)), without).
        norm: LayerNorm, or RMSNorm (no mean subtraction, no bias).
        head_scale: γ_i on head i before W^O (`heads`, the paper), on d_head blocks of channels
            after it (`output`, the published fairseq code), or `none`.
        attn_out_norm: A norm on the attention's output, before the residual sum.
        ffn_mid_norm: A norm after the activation, before the second linear map.
        qkv_norm: Norms over d_model on the projected q, k and v ("+3 more LN", Table 4).
        res_scale: λ_resid on the skip: of the FFN or of both sublayers, a vector over d_model or
            a scalar.
        activation: Exact erf GELU, ReLU², or GeGLU (fc1 then has 2·d_ff rows: gate and value).
        positions: Sinusoidal (fairseq's layout) or learned.
        dropout: On embeddings, attention probabilities and sublayer outputs.
        attention: `materialised` (the scores exist in the matrix products' dtype, as in the paper)
            or `sdpa` (a fused kernel that keeps them in fp32 and out of reach).
    """

    d_model: int = Field(ge=2, multiple_of=2)
    n_layers: int = Field(ge=1)
    n_heads: int = Field(ge=1)
    d_ff: int = Field(ge=1)
    vocab_size: int = Field(default=256, ge=2)
    max_seq_len: int = Field(ge=1)
    placement: Placement = "pre"
    norm: NormKind = "layernorm"
    head_scale: HeadScalePlace = "none"
    attn_out_norm: bool = False
    ffn_mid_norm: bool = False
    qkv_norm: bool = False
    res_scale: ResScale = "none"
    activation: Activation = "gelu"
    positions: Positions = "sinusoidal"
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    attention: AttentionPath = "materialised"

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.d_model % self.n_heads:
            raise ValueError(
                f"d_model = {self.d_model} is not divisible by n_heads = {self.n_heads}: "
                "choose a multiple."
            )
        return self


class OptimizerConfig(Config):
    """AdamW as the paper runs it: decoupled weight decay on every parameter, no clipping."""

    beta1: float = Field(default=0.9, ge=0.0, lt=1.0)
    beta2: float = Field(default=0.98, ge=0.0, lt=1.0)
    eps: float = Field(default=1e-8, gt=0.0)
    weight_decay: float = Field(default=0.01, ge=0.0)
    clip_norm: float | None = Field(default=None, gt=0.0)
    """Global L2 norm to clip at, or None."""


class ScheduleConfig(Config):
    """The learning rate as a function of the step.

    Attributes:
        kind: `constant`, `linear` or `cosine` decay to 0 at the last step, or `ramp`:
            lr(step) = step · lr_step, the stability test's.
        lr: The peak; not used by `ramp`.
        warmup_steps: Steps of linear warm-up from 0 to lr, before the kind takes over.
        lr_step: The ramp's rise at each step.
    """

    kind: ScheduleKind = "constant"
    lr: float | None = Field(default=None, gt=0.0)
    warmup_steps: int = Field(default=0, ge=0)
    lr_step: float | None = Field(default=None, gt=0.0)

    @model_validator(mode="after")
    def _one_rate(self) -> Self:
        if self.kind == "ramp":
            if self.lr_step is None:
                raise ValueError(
                    "a ramp needs lr_step, the rise of the learning rate at each step."
                )
            if self.lr is not None or self.warmup_steps:
                raise ValueError("a ramp takes lr_step alone: leave out lr and warmup_steps.")
        elif self.lr is None:
            raise ValueError(f"a {self.kind} schedule needs lr.")
        elif self.lr_step is not None:
            raise ValueError("lr_step belongs to the ramp: leave it out, or set kind = 'ramp'.")
        return self


class PrecisionConfig(Config):
    """Number formats and the dynamic loss scale.

    The loss scale is used by `fp16` and `fp16-pure` only. PyTorch's GradScaler starts at 2^16 and
    grows after 2000 good steps; fairseq starts at 2^7.
    """

    name: PrecisionName = "fp32"
    master_weights: bool = True
    """fp16-pure: keep fp32 copies of the weights; False rounds them to fp16 after each update."""
    initial_loss_scale: float = Field(default=2.0**16, gt=0.0)
    growth_factor: float = Field(default=2.0, gt=1.0)
    backoff_factor: float = Field(default=0.5, gt=0.0, lt=1.0)
    growth_interval: int = Field(default=2000, ge=1)

    @model_validator(mode="after")
    def _masters_only_where_weights_are_fp16(self) -> Self:
        if not self.master_weights and self.name != "fp16-pure":
            raise ValueError(
                f"master_weights = false needs precision fp16-pure: in {self.name} the weights "
                "are fp32 already."
            )
        return self


class StabilityConfig(Config):
    """When a run counts as destabilised (see `gradlab.training.stability`)."""

    patience: int = Field(default=10, ge=1)
    """Consecutive steps with a non-finite loss or gradient."""
    loss_scale_floor: float = Field(default=1e-4, gt=0.0)
    ema_decay: float = Field(default=0.9, ge=0.0, lt=1.0)
    margin: float = Field(default=1.5, gt=0.0)
    """Rise of the loss's EMA above its running minimum, in nats."""


class DataConfig(Config):
    """Which text, and how it becomes tokens (see `gradlab.data`)."""

    corpus: str = "python-stdlib"
    """`python-stdlib`, a text file or folder, a `.bin` token file or folder, `hf:NAME[:CONFIG]`."""
    tokenizer: str | None = None
    """A tokenizer's name or file, for `hf:` corpora and text; bytes without one."""
    held_out: float = Field(default=0.05, gt=0.0, lt=1.0)
    """Share at the end of the corpus that is kept for validation."""


class RecordConfig(Config):
    """What a run writes, and how often values leave the device."""

    probes: tuple[ProbeName, ...] = ("headroom",)
    """What is measured inside the model, by the table that it fills."""
    every: int = Field(default=10, ge=1)
    """Steps between two looks: at headroom, between two rows of a site away from an overflow; the
    learned scales are written at steps evenly spaced on a logarithmic axis whatever it is."""
    window: int = Field(default=50, ge=1)
    """Steps between two copies from the device to the run directory."""


class RunConfig(Config):
    """One training run: what `gradlab.train` takes and `run.json` holds."""

    arch: str
    size: str
    model: ModelConfig
    schedule: ScheduleConfig
    steps: int = Field(ge=1)
    seed: int = Field(default=0, ge=0)
    batch_size: int = Field(default=8, ge=1)
    accumulation: int = Field(default=1, ge=1)
    """Micro-batches of `batch_size` in one step."""
    optimizer: OptimizerConfig = OptimizerConfig()
    precision: PrecisionConfig = PrecisionConfig()
    stability: StabilityConfig = StabilityConfig()
    data: DataConfig = DataConfig()
    record: RecordConfig = RecordConfig()
    val_every: int = Field(default=0, ge=0)
    """Steps between two validations, of which one comes after the last step too; 0 for none."""
    val_batches: int = Field(default=8, ge=1)
    device: str = "auto"
    stop_when_destabilised: bool = True
    variant: str = BASE_VARIANT
    """What a study of variants calls the run's hyperparameters; a name, as `arch` and `size`."""

    @property
    def row(self) -> str:
        """The run among those of its seed, as `row_of` has it."""
        return row_of(self.arch, self.variant)

    @property
    def tokens_per_step(self) -> int:
        """Tokens whose loss one step averages."""
        return self.batch_size * self.accumulation * self.model.max_seq_len

    def validates_after(self, step: int) -> bool:
        """Whether a validation comes after a 0-based step: every `val_every`, and the last."""
        if not self.val_every:
            return False
        return (step + 1) % self.val_every == 0 or step + 1 == self.steps

    def lr(self, step: int) -> float:
        """Learning rate at a 0-based step."""
        schedule = self.schedule
        if schedule.kind == "ramp":
            assert schedule.lr_step is not None
            return step * schedule.lr_step
        assert schedule.lr is not None
        if step < schedule.warmup_steps:
            return schedule.lr * (step + 1) / schedule.warmup_steps
        if schedule.kind == "constant":
            return schedule.lr
        left = (self.steps - 1 - step) / max(1, self.steps - 1 - schedule.warmup_steps)
        if schedule.kind == "linear":
            return schedule.lr * left
        return schedule.lr * 0.5 * (1 - math.cos(math.pi * left))


def row_of(arch: str, variant: str) -> str:
    """What tells runs of one seed apart in a study: architecture, and variant but for the base."""
    return arch if variant == BASE_VARIANT else f"{arch}_{variant}"
