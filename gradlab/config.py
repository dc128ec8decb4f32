"""Frozen configurations: everything that decides what a run does, checked when it is made.

An unknown key, a value outside its range and an impossible mix are all a `ConfigError`, whose
message is one sentence. `RunConfig` is what `run.json` holds.
"""

import math
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from gradlab.base_config import Config
from gradlab.models.config import ModelConfig
from gradlab.probe_names import ProbeName

PrecisionName = Literal["fp32", "bf16", "fp16", "fp16-pure"]
Events = Literal["exact", "skipped", "sampled"]
ScheduleKind = Literal["constant", "linear", "cosine", "ramp"]
Parallel = Literal["auto", "none", "ddp", "fsdp"]

BASE_VARIANT = "base"
"""The variant of a run whose hyperparameters no study varies."""


class OptimizerConfig(Config):
    """AdamW as the paper runs it: decoupled weight decay on every parameter, no clipping."""

    model_config = ConfigDict(title="The optimizer")

    beta1: float = Field(default=0.9, ge=0.0, lt=1.0)
    """Adam's β1."""
    beta2: float = Field(default=0.98, ge=0.0, lt=1.0)
    """Adam's β2."""
    eps: float = Field(default=1e-8, gt=0.0)
    """Adam's ε."""
    weight_decay: float = Field(default=0.01, ge=0.0)
    """Decoupled, on everything."""
    clip_norm: float | None = Field(default=None, gt=0.0)
    """Gradient norm (L2, of all together) to clip at; no clipping unless given."""
    z_loss: float = Field(default=0.0, ge=0.0)
    """Weight of the z-loss, the mean of (ln Z)² over the tokens' softmaxes, beside the loss that is
    recorded; 1e-4 in its paper."""


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


class ScalingConfig(Config):
    """What goes with the FP16 formats.

    The loss scale is used by `fp16` and `fp16-pure` only. PyTorch's GradScaler starts at 2^16 and
    grows after 2000 good steps; fairseq starts at 2^7.
    """

    model_config = ConfigDict(title="Number formats")

    master_weights: bool = True
    """fp16-pure: keep fp32 copies of the weights, or round them to fp16 after each update."""
    initial_loss_scale: float = Field(default=2.0**16, gt=0.0)
    """Where fp16's dynamic loss scale starts."""
    growth_factor: float = Field(default=2.0, gt=1.0)
    """The loss scale's growth."""
    backoff_factor: float = Field(default=0.5, gt=0.0, lt=1.0)
    """The loss scale's change at an overflow."""
    growth_interval: int = Field(default=2000, ge=1)
    """Good steps in a row before the loss scale grows."""


class PrecisionConfig(ScalingConfig):
    """Number formats and the dynamic loss scale."""

    name: PrecisionName = "fp32"

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

    model_config = ConfigDict(title="When a run counts as destabilised")

    patience: int = Field(default=10, ge=1)
    """Steps in a row with a non-finite loss or gradient."""
    loss_scale_floor: float = Field(default=1e-4, gt=0.0)
    """The loss scale below which fairseq gives up."""
    ema_decay: float = Field(default=0.9, ge=0.0, lt=1.0)
    """Decay of the loss's moving average (EMA)."""
    margin: float = Field(default=1.5, gt=0.0)
    """Nats that this average is above its lowest."""


class DataConfig(Config):
    """Which text, and how it becomes tokens (see `gradlab.data`)."""

    model_config = ConfigDict(title="The text")

    corpus: str = "python-stdlib"
    """python-stdlib (needs no download), a text file or folder, a .bin token file or a folder of
    them, or hf:NAME[:CONFIG]."""
    tokenizer: str | None = None
    """What makes tokens of it: bytes, bpe (trained on it, to fill the vocabulary that --vocab-size
    gives), or a tokenizer's name or file; bytes unless given."""
    held_out: float = Field(default=0.05, gt=0.0, lt=1.0)
    """Share at the end of the text that is kept for validation."""

    @model_validator(mode="before")
    @classmethod
    def _bytes_are_no_tokenizer(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and values.get("tokenizer") == "bytes":
            return {**values, "tokenizer": None}
        return values


class RecordConfig(Config):
    """What a run writes, and how often values leave the device."""

    model_config = ConfigDict(title="The record")

    probes: tuple[ProbeName, ...] = ("headroom", "states")
    """What is measured inside the model, by the names of `gradlab.probe_names`."""
    every: int = Field(default=10, ge=1)
    """Steps between two with rows, events aside."""
    events: Events = "exact"
    """exact: every step is looked at, and what was skipped or not finite is recorded with its rows;
    skipped: of the steps between, only those with a gradient that was not finite, whose passes are
    made again; sampled: only every n-th step, which misses events between."""
    checkpoint_every: int | None = Field(default=None, ge=0)
    """Steps between two checkpoints to resume from, 0 for none; as often as takes 1 % of the time
    unless given."""
    keep_weights: bool = False
    """Keep the model's weights at the run's end, in its folder, for gradlab export."""
    window: int = Field(default=50, ge=1)
    """Steps between two writes from the device to the run directory."""


class RunConfig(Config):
    """One training run: what `gradlab.train` takes and `run.json` holds."""

    arch: str
    size: str
    model: ModelConfig
    schedule: ScheduleConfig
    steps: int = Field(ge=1)
    """Steps to take."""
    seed: int = Field(default=0, ge=0, lt=1 << 63)
    """Of the initial values and the batches."""
    batch_size: int = Field(default=8, ge=1)
    """Sequences a batch."""
    accumulation: int = Field(default=1, ge=1)
    """Batches whose gradients one step sums."""
    optimizer: OptimizerConfig = OptimizerConfig()
    precision: PrecisionConfig = PrecisionConfig()
    stability: StabilityConfig = StabilityConfig()
    data: DataConfig = DataConfig()
    record: RecordConfig = RecordConfig()
    val_every: int = Field(default=0, ge=0)
    """Steps between two validations; one comes after the last step too. 0 for none."""
    val_batches: int = Field(default=8, ge=1)
    """Batches of a validation."""
    device: str = "auto"
    """Where to train: auto, cpu, cuda, cuda:N; auto takes CUDA where there is one."""
    parallel: Parallel = "auto"
    """How torchrun's processes train together: ddp, each with the whole model; fsdp, each with a
    part; none, not at all; auto is ddp where there are several."""
    compile: bool = False
    """Run the model by torch.compile, with its casts kept."""
    stop_when_destabilised: bool = True
    """Whether the run ends once it has destabilised."""
    variant: str = BASE_VARIANT
    """What a study of variants calls the run's hyperparameters; a name, as `arch` and `size`."""

    @model_validator(mode="after")
    def _a_batch_has_statistics(self) -> Self:
        if self.model.norm == "batchnorm" and self.batch_size * self.model.max_seq_len == 1:
            raise ValueError(
                "norm = 'batchnorm' takes its statistics over a batch: one token has none, choose "
                "a larger batch_size or max_seq_len."
            )
        return self

    @property
    def named(self) -> str:
        """The run in a few words: `pre-ln, nano, fp32, seed 0`."""
        return f"{self.arch}, {self.size_label}, {self.precision.name}, seed {self.seed}"

    @property
    def size_label(self) -> str:
        """The size as tables and sentences have it: `nano`, and `masked nano` of a masked model."""
        return self.size if self.model.is_causal else f"{self.model.objective} {self.size}"

    @property
    def row(self) -> str:
        """The run among those of its seed, as `row_of` has it."""
        return row_of(self.arch, self.variant)

    @property
    def tokens_per_step(self) -> int:
        """Tokens that one step reads."""
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
