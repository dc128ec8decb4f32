"""Which depths train: architectures at many depths, thin, at one learning rate."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from gradlab.config import RunConfig, ScheduleConfig
from gradlab.errors import ConfigError
from gradlab.models.presets import model_config, names_width
from gradlab.settings import Names, Widths, several, size_at
from gradlab.studies.bisection import Rates
from gradlab.studies.equal_time import check_warmup
from gradlab.studies.limit import survived
from gradlab.studies.news import Tell
from gradlab.studies.study import Study
from gradlab.studies.table import DEPTH_RUNS, StudyTable

if TYPE_CHECKING:
    from gradlab.runs.reader import Run

STEP_BYTES = "step_bytes"
"""Where the study's file keeps the bytes of a step, by row."""


class DepthScan(Study):
    """Architectures × depths × warm-ups, with their gradients and states (`depth-scan`)."""

    command_name: ClassVar[str] = "depth-scan"
    kind: ClassVar[str] = "depth-scan"
    table: ClassVar[StudyTable] = DEPTH_RUNS

    arch: Names = ("post-ln", "pre-ln", "deepnorm", "normformer")
    """An architecture; repeat for more."""
    depth: Widths = (2, 6, 12, 24, 50, 100)
    """Layers; repeat for more."""
    size: str = "nano"
    """A size, whose depth is not taken."""
    width: int | None = None
    """Take the size at this width; 32 unless the size names one."""
    lr: float = 1e-3
    """The learning rate, constant after the warm-up."""
    warmup: Widths = (0, 50)
    """Steps of linear warm-up from 0; repeat for more."""
    steps: int = Field(default=150, ge=2)
    """Steps of each run."""
    stable: bool = False
    """Look for the highest learning rate that each survives too, by bisection."""
    lowest: float = 1e-4
    """The lowest of those rates."""
    highest: float = 1.0
    """The highest."""
    factor: float = 2.0
    """From one to the next."""
    seeds: int = 1
    """Seeds 0 to N-1."""
    probes: Names = Field(
        default=("grad_norms", "hidden"), description=Study.model_fields["probes"].description
    )
    precision: str = "auto"
    """Number formats: auto, fp32, bf16, fp16, fp16-pure; auto is fp32."""

    def configs(self) -> list[RunConfig]:
        """Seeds × depths × warm-ups × architectures, in that order: the shallow ones first.

        Raises:
            ConfigError: A setting is unknown, out of range, or does not fit others.
        """
        if self.stable:
            self.rates()
        depths, warmups = (sorted(set(several(each))) for each in (self.depth, self.warmup))
        for depth in depths:
            if depth < 1:
                raise ConfigError(f"depth = {depth}: a model has one layer at least.")
        for warmup in warmups:
            if warmup < 0:
                raise ConfigError(f"warmup = {warmup}: it is a number of steps, 0 or more.")
            check_warmup(warmup, self.steps)
        if not depths or not warmups or "n_layers" in self.model:
            raise ConfigError("say the layers by --depth, one number or more, and not otherwise.")
        return [
            self.run(arch, depth, warmup, seed, self.lr)
            for seed, depth, warmup, arch in product(
                self.each_seed(), depths, warmups, dict.fromkeys(self.arch)
            )
        ]

    def begin(
        self, out: Path, *, resume: bool, tell: Tell
    ) -> tuple[list[RunConfig], dict[str, Any]]:
        """The runs, and the bytes that a step of each takes.

        Raises:
            GradlabError: One takes more than there is.
        """
        from gradlab.studies.step_memory import step_bytes
        from gradlab.training.device import resolve_device
        from gradlab.training.memory_needed import check_bytes

        configs = self.configs()
        device = resolve_device(self.device)
        sizes = {}
        for config in {config.row: config for config in configs}.values():
            sizes[config.row] = step_bytes(config)
            check_bytes(
                sizes[config.row], device, f"{config.arch} with {config.model.n_layers} layers"
            )
        return configs, {STEP_BYTES: sizes}

    def more(self, runs: "Sequence[Run]") -> list[RunConfig]:
        """The next rate of the bisection of each row and seed, if it is asked for."""
        if not self.stable:
            return []
        rates = self.rates()
        rows = {(run.config.row, run.config.seed): run.config for run in runs}
        nexts = {line: rates.next(tried) for line, tried in survived(runs).items()}
        return [self._like(rows[line], rate) for line, rate in nexts.items() if rate is not None]

    def rates(self) -> Rates:
        """The rates among which the highest stable one is looked for.

        Raises:
            ConfigError: They make no row.
        """
        return Rates(self.lowest, self.highest, self.factor)

    def run(self, arch: str, depth: int, warmup: int, seed: int, lr: float) -> RunConfig:
        """One run, whose probes look at its first and its last step."""
        size = size_at(self.size, self.width or (None if names_width(self.size) else 32))
        shared = self.shared("fp32" if self.precision == "auto" else self.precision)
        record = shared["record"].replace(every=max(self.steps - 1, 1), events="sampled")
        return RunConfig(
            arch=arch,
            size=size,
            model=model_config(arch, size, **{**self.model, "n_layers": depth}),
            schedule=ScheduleConfig(kind="constant", lr=lr, warmup_steps=warmup),
            steps=self.steps,
            seed=seed,
            variant=f"{depth}-layers-warmup{warmup}",
            **{**shared, "record": record},
        )

    def _like(self, config: RunConfig, lr: float) -> RunConfig:
        warmup, layers = config.schedule.warmup_steps, config.model.n_layers
        return self.run(config.arch, layers, warmup, config.seed, lr)
