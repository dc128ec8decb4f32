"""The highest constant learning rate that an architecture survives, beside the ramp's answer."""

from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from gradlab.config import RunConfig, ScheduleConfig
from gradlab.errors import ConfigError
from gradlab.settings import Names, size_at
from gradlab.studies.bisection import Rates
from gradlab.studies.equal_time import check_warmup
from gradlab.studies.study import Study
from gradlab.studies.table import LIMIT_RUNS, StudyTable

if TYPE_CHECKING:
    from gradlab.runs.reader import Run


class Limit(Study):
    """Short runs at constant learning rates, by bisection, and a ramp beside them (`limit`)."""

    command_name: ClassVar[str] = "limit"
    kind: ClassVar[str] = "limit"
    table: ClassVar[StudyTable] = LIMIT_RUNS

    arch: Names = ("post-ln", "pre-ln", "normformer")
    """An architecture; repeat for more."""
    size: str = "nano"
    """A size; nano-d128 is nano at width 128."""
    width: int | None = None
    """Take the size at this width."""
    lowest: float = 1e-3
    """The lowest learning rate."""
    highest: float = 4.0
    """The highest."""
    factor: float = 1.25
    """From one learning rate to the next: how fine the answer is."""
    steps: int = Field(default=150, ge=1)
    """Steps that a run has to survive."""
    warmup: int = Field(default=0, ge=0)
    """Steps of linear warm-up from 0, before the constant rate."""
    lr_step: float = 1e-3
    """Rise of the ramp's learning rate at each step."""
    ramp_steps: int = Field(default=1000, ge=1)
    """Cap on the ramp's steps."""
    probes: Names = Field(default=("none",), description=Study.model_fields["probes"].description)
    precision: str = "auto"
    """Number formats: auto, fp32, bf16, fp16, fp16-pure; auto is fp16, emulated on a CPU."""

    def configs(self) -> list[RunConfig]:
        """The ramps, and the first constant rate of each architecture and seed.

        Raises:
            ConfigError: A setting is unknown, out of range, or does not fit others.
        """
        check_warmup(self.warmup, self.steps)
        first = self.rates().next({})
        if first is None:  # there are two rates at least
            raise ConfigError("there is no rate to try.")
        lines = list(product(self.each_seed(), dict.fromkeys(self.arch)))
        return [
            *(self._ramp(arch, seed) for seed, arch in lines),
            *(self._constant(arch, seed, first) for seed, arch in lines),
        ]

    def rates(self) -> Rates:
        """The rates among which the limit is looked for.

        Raises:
            ConfigError: They make no row.
        """
        return Rates(self.lowest, self.highest, self.factor)

    def more(self, runs: "Sequence[Run]") -> list[RunConfig]:
        """The next rate of each architecture and seed whose ends are not neighbours yet."""
        rates = self.rates()
        return [
            self._constant(arch, seed, rate)
            for (arch, seed), tried in survived(runs).items()
            if (rate := rates.next(tried)) is not None
        ]

    def _constant(self, arch: str, seed: int, lr: float) -> RunConfig:
        schedule = ScheduleConfig(kind="constant", lr=lr, warmup_steps=self.warmup)
        return self._run(arch, seed, schedule, self.steps)

    def _ramp(self, arch: str, seed: int) -> RunConfig:
        return self._run(
            arch, seed, ScheduleConfig(kind="ramp", lr_step=self.lr_step), self.ramp_steps
        )

    def _run(self, arch: str, seed: int, schedule: ScheduleConfig, steps: int) -> RunConfig:
        size = size_at(self.size, self.width)
        return RunConfig(
            arch=arch,
            size=size,
            model=self.model_of(arch, size),
            schedule=schedule,
            steps=steps,
            seed=seed,
            **self.shared("fp16" if self.precision == "auto" else self.precision),
        )


def survived(runs: "Sequence[Run]") -> dict[tuple[str, int], dict[float, bool]]:
    """Of each row (`RunConfig.row`) and seed, whether the run at each constant rate was survived.

    A run that failed or has not ended says nothing.
    """
    found: dict[tuple[str, int], dict[float, bool]] = {}
    for run in runs:
        config, verdict = run.config, run.verdict
        line = found.setdefault((config.row, config.seed), {})
        lr = config.schedule.lr
        if lr is not None and verdict is not None and (verdict.broke or verdict.censored):
            line[lr] = verdict.censored
    return found
