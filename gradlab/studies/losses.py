"""Studies that compare losses: what they have alike, the ablation and the learning rate search."""

from abc import abstractmethod
from itertools import product
from pathlib import Path
from typing import Any, ClassVar, get_args

from pydantic import Field

from gradlab.config import BASE_VARIANT, RunConfig, ScheduleConfig, ScheduleKind
from gradlab.errors import ConfigError
from gradlab.models.presets import BASELINE, TABLE_4
from gradlab.settings import Names, Numbers, check_name, several, size_at
from gradlab.studies.equal_time import at_equal_time, check_warmup
from gradlab.studies.news import Tell
from gradlab.studies.study import Study
from gradlab.studies.table import RUNS, StudyTable


class LossStudy(Study):
    """Runs whose validation losses after the last step are compared."""

    table: ClassVar[StudyTable] = RUNS

    size: str = "nano"
    """A size; nano-d128 is nano at width 128."""
    width: int | None = None
    """Take the size at this width."""
    schedule: str = "linear"
    """Decay: constant (none), linear, cosine."""
    warmup: int = Field(default=30, ge=0)
    """Steps of linear warm-up from 0."""
    val_every: int = Field(default=0, ge=0)
    """Steps between validations; 0: only the last."""
    val_batches: int = Field(default=64, ge=1)
    """Batches of a validation."""
    probes: Names = ("none",)
    """What to measure inside the model beside the loss: headroom, grad_norms, scales, scores,
    optimizer, or none; repeat for more."""
    precision: str = "auto"
    """Number formats: auto, fp32, bf16, fp16, fp16-pure; auto is fp32."""
    steps: int
    """Steps of each run."""

    def run(self, arch: str, lr: float, seed: int, variant: str = BASE_VARIANT) -> RunConfig:
        """One run, validated after its last step, and on the way if asked to.

        Raises:
            ConfigError: A setting is unknown, out of range, or does not fit others.
        """
        size = size_at(self.size, self.width)
        known = [kind for kind in get_args(ScheduleKind) if kind != "ramp"]
        if self.schedule == "ramp":
            raise ConfigError(
                f"schedule = ramp has no learning rate to compare at: take {', '.join(known)}."
            )
        check_name("schedule", self.schedule, known)
        check_warmup(self.warmup, self.steps)
        return RunConfig(
            arch=arch,
            size=size,
            model=self.model_of(arch, size),
            schedule=ScheduleConfig.from_mapping(
                {"kind": self.schedule, "lr": lr, "warmup_steps": self.warmup}
            ),
            steps=self.steps,
            seed=seed,
            val_every=self.val_every or self.steps,
            val_batches=self.val_batches,
            variant=variant,
            **self.shared("fp32" if self.precision == "auto" else self.precision),
        )


class EqualStudy(LossStudy):
    """Rows with equal compute, one of which is the baseline."""

    equal: str = "time"
    """What rows share: measured time, or steps."""

    @abstractmethod
    def timed(self) -> list[list[RunConfig]]:
        """A run of each row, whose step is to be timed, in groups with equal compute.

        The baseline's comes first in each.
        """

    def begin(
        self, out: Path, *, resume: bool, tell: Tell
    ) -> tuple[list[RunConfig], dict[str, Any]]:
        """The runs, at equal time with the steps that fit in it."""
        configs = self.configs()
        if self.equal == "steps":
            return configs, {}
        return at_equal_time(configs, self.timed(), out, resume=resume, tell=tell)

    def check_equal(self) -> None:
        """See to what is to be equal.

        Raises:
            ConfigError: It is neither time nor steps.
        """
        check_name("equal", self.equal, ("time", "steps"))


class OneRateStudy(EqualStudy):
    """The same at one learning rate."""

    steps: int = 500
    """Steps of the baseline; others take what fits in its time."""
    lr: float = 3e-3
    """Peak learning rate."""


class Ablation(OneRateStudy):
    """NormFormer's operations taken away one at a time (`ablate`): the paper's Table 4."""

    command_name: ClassVar[str] = "ablate"
    kind: ClassVar[str] = "ablation"

    row: Names = ()
    """A row of Table 4: normformer-resscale, minus-post-attn-ln, minus-ffn-ln, minus-head-scale,
    normformer, plus-3-more-ln, pre-ln; repeat for more. All by default."""

    def configs(self) -> list[RunConfig]:
        """Seeds × rows, in that order, all with the baseline's steps.

        The rows of one seed stand together, so that a study that is stopped has pairs.
        """
        self.check_equal()
        for name in self.row:
            check_name("row", name, TABLE_4)
        for name in _ABLATED:
            if name in self.model:
                raise ConfigError(f"{name}: the rows of the study differ in it; leave it out.")
        rows = [name for name in TABLE_4 if name in self.row] or list(TABLE_4)
        return [self.run(arch, self.lr, seed) for seed, arch in product(self.each_seed(), rows)]

    def timed(self) -> list[list[RunConfig]]:
        """The baseline, and the study's rows."""
        rows = [config for config in self.configs() if config.seed == 0]
        baseline = self.run(BASELINE, self.lr, 0)
        return [[baseline, *(config for config in rows if config.arch != BASELINE)]]


_ABLATED = ("placement", "head_scale", "attn_out_norm", "ffn_mid_norm", "qkv_norm", "res_scale")


class LrSearch(EqualStudy):
    """Architectures at several learning rates (`lr-search`): the paper's Table 1."""

    command_name: ClassVar[str] = "lr-search"
    kind: ClassVar[str] = "lr-search"

    arch: Names = ("pre-ln", "normformer")
    """An architecture; repeat for more."""
    lr: Numbers = tuple(1e-3 * 2**power for power in range(8))
    """A peak learning rate; repeat for more. By default eight, each twice the last."""
    equal: str = "steps"
    """What architectures share: steps, or measured time."""
    steps: int = 300
    """Steps of each run; at equal time Pre-LN's, and others take what fits in its time."""

    def configs(self) -> list[RunConfig]:
        """Seeds × rates × architectures, in that order."""
        self.check_equal()
        return [
            self.run(arch, lr, seed)
            for seed, lr, arch in product(self.each_seed(), self._rates(), dict.fromkeys(self.arch))
        ]

    def timed(self) -> list[list[RunConfig]]:
        """Pre-LN, and the study's architectures."""
        others = [arch for arch in dict.fromkeys(self.arch) if arch != BASELINE]
        return [[self.run(arch, self._rates()[0], 0) for arch in (BASELINE, *others)]]

    def _rates(self) -> list[float]:
        return sorted(set(several(self.lr)))
