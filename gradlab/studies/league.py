"""Every architecture side by side: what each survives, learns and costs."""

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from gradlab.models.presets import ARCHITECTURES
from gradlab.settings import Names, Numbers, TrainingSettings, check_name, same, size_at
from gradlab.studies.gradients import Gradients
from gradlab.studies.limit import Limit
from gradlab.studies.losses import LrSearch
from gradlab.studies.several import Studies
from gradlab.studies.study import Study

PARTS = (Gradients.command_name, Limit.command_name, LrSearch.command_name)
"""The studies of a league, by the names of their folders and commands."""


class League(TrainingSettings, Studies):
    """Architectures compared by three studies, each in a folder of its own (`league`)."""

    command_name: ClassVar[str] = "league"

    arch: Names = ()
    """An architecture; repeat for more. All by default."""
    size: str = "nano"
    """A size; nano-d128 is nano at width 128."""
    width: int | None = None
    """Take the size at this width."""
    seeds: int = 3
    """Seeds 0 to N-1."""
    steps: int = Field(default=150, ge=1)
    """Steps of each run at a set rate, in the search Pre-LN's; two thirds are to be survived at a
    constant one."""
    lr: Numbers = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
    """A peak rate of the search for the best; repeat for more."""
    grad_lr: float = 3e-3
    """The rate of the runs with gradients and headroom."""
    lowest: float = Field(default=1e-3, description="The lowest constant rate to survive.")
    highest: float = Field(default=4.0, description="The highest.")
    factor: float = Field(default=1.25, description="From one to the next.")
    lr_step: float = Field(default=1e-3, description="Rise of the ramp's rate at each step.")
    ramp_steps: int = same("ramp_steps", Limit)
    only: Names = ()
    """A study to make: grad-norms, limit or lr-search; or all."""

    def studies(self) -> dict[str, Study]:
        """The studies to be made: gradients and headroom, the highest rates, the best rates.

        Raises:
            ConfigError: A setting is unknown, out of range, or does not fit others.
        """
        for name in self.only:
            check_name("only", name, PARTS)
        shared = {name: getattr(self, name) for name in TrainingSettings.model_fields}
        shared |= {"arch": list(self.arch or ARCHITECTURES), "size": self.size}
        shared |= {"width": self.width, "seeds": self.seeds}
        warmup, average = self.steps // 10, max(1, self.steps // 3)
        studies: list[Study] = [
            Gradients(
                **shared,
                steps=self.steps,
                lr=self.grad_lr,
                warmup=warmup,
                average=average,
                probes=("headroom",),
                every=max(1, average // 10),
                events="sampled",
            ),
            Limit(
                **shared,
                lowest=self.lowest,
                highest=self.highest,
                factor=self.factor,
                steps=max(1, self.steps * 2 // 3),
                lr_step=self.lr_step,
                ramp_steps=self.ramp_steps,
                probes=("headroom",),
            ),
            LrSearch(**shared, equal="time", steps=self.steps, lr=self.lr, warmup=warmup),
        ]
        made = dict(zip(PARTS, studies, strict=True))
        return {name: study for name, study in made.items() if name in (self.only or PARTS)}

    def folder(self) -> Path:
        """Where the studies go unless told."""
        return Path("studies") / f"league-{size_at(self.size, self.width)}"
