"""Gradients by layer, architecture against architecture."""

from itertools import product
from typing import ClassVar

from pydantic import Field

from gradlab.config import RunConfig, ScheduleConfig
from gradlab.errors import ConfigError
from gradlab.probe_names import PROBES
from gradlab.settings import Names, size_at
from gradlab.studies.study import Study
from gradlab.studies.table import RUNS, StudyTable

_OTHERS = tuple(name for name in PROBES if name != "grad_norms")


class Gradients(Study):
    """The architectures side by side, every gradient recorded (`grad-norms`)."""

    command_name: ClassVar[str] = "grad-norms"
    kind: ClassVar[str] = "gradients"
    table: ClassVar[StudyTable] = RUNS

    arch: Names = ("post-ln", "pre-ln", "normformer")
    """An architecture; repeat for more."""
    size: str = "micro"
    """A size; nano-d128 is nano at width 128."""
    width: int | None = None
    """Take the size at this width."""
    steps: int = 300
    """Steps to take."""
    lr: float = 1e-3
    """Learning rate after the warm-up."""
    warmup: int = Field(default=100, ge=0)
    """Steps of linear warm-up from 0."""
    average: int = 50
    """Steps that each window averages: the first after the warm-up, and the last. Another number
    with --resume looks at the same runs again."""
    probes: Names = Field(
        default=("grad_norms",),
        description=f"What to measure beside the gradients: {', '.join(_OTHERS)}; repeat for more.",
    )
    every: int = 1
    """Steps between two looks."""
    precision: str = "auto"
    """Number formats: auto, fp32, bf16, fp16, fp16-pure; auto is fp32."""

    def configs(self) -> list[RunConfig]:
        """Seeds × architectures, in that order; the gradients are recorded whatever else is."""
        if self.every > max(self.average, 1):  # an average of none is refused as such
            raise ConfigError(
                f"every = {self.every}: a window of {self.average} steps may then have no look "
                "at the gradients; look more often, or average more steps."
            )
        size = size_at(self.size, self.width)
        others = (name for name in self.probes if name not in ("none", "grad_norms"))
        recording = self.replace(probes=("grad_norms", *others))
        shared = recording.shared("fp32" if self.precision == "auto" else self.precision)
        return [
            RunConfig(
                arch=arch,
                size=size,
                model=self.model_of(arch, size),
                schedule=ScheduleConfig(lr=self.lr, warmup_steps=self.warmup),
                steps=self.steps,
                seed=seed,
                **shared,
            )
            for seed, arch in product(self.each_seed(), dict.fromkeys(self.arch))
        ]
