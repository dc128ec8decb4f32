"""The studies that the paper's claims are tested by."""

from pathlib import Path
from typing import Any

from gradlab.models.config import ModelConfig, Objective
from gradlab.runs.command import Command
from gradlab.runs.study import find_study
from gradlab.settings import Names, check_name, same
from gradlab.studies.gradients import Gradients
from gradlab.studies.losses import Ablation
from gradlab.studies.several import Studies
from gradlab.studies.stability import Stability
from gradlab.studies.study import Study

STUDIES: dict[str, Study] = {
    "gradients": Gradients(),
    "scales": Gradients(
        size="nano",
        arch=["pre-ln", "normformer", "normformer-resscale"],
        steps=1001,
        warmup=100,
        probes=["scales"],
        every=2,
    ),
    "stability": Stability(lr_step=2e-4),
    "ablation": Ablation(val_every=25),
}
"""The studies, in the order in which they are made. Together about half an hour on two cores."""

AT_WIDTH: dict[str, dict[str, Any]] = {"gradients": {"size": "nano", "steps": 250}}
"""What differs at a width that is asked for, beside the width: all studies are at nano then."""


class Claims(Studies):
    """The studies behind the paper's claims (`claims`), each in a folder of its own."""

    only: Names = ()
    """A study to make: gradients, scales, stability, ablation; repeat for more. All by default.
    What lies in the folder of the others counts as well."""
    width: int | None = None
    """Make all of them at nano with this width. At 768, on two cores and with three seeds,
    stability takes about 30 minutes, gradients 20 to 40, scales and ablation some hours each."""
    objective: Objective = same("objective", ModelConfig)
    seeds: int = 3
    """Seeds 0 to N-1, or those that a study was begun with where these are more."""

    def studies(self) -> dict[str, Study]:
        """The studies to be made, by the names of their folders.

        Raises:
            ConfigError: A name is unknown.
        """
        for name in self.only:
            check_name("only", name, STUDIES)
        return {name: self._study(name) for name in STUDIES if name in (self.only or STUDIES)}

    def lines(self, out: Path) -> dict[str, str]:
        """What one types to make each of all the studies: as it was begun, if it was.

        Raises:
            GradlabError: A study's file cannot be read.
        """
        found = {name: find_study(out / name) for name in STUDIES}
        commands = {
            name: (study and study.command) or self._study(name).command()
            for name, study in found.items()
        }
        return {name: command.at(out / name) for name, command in commands.items()}

    def folder(self) -> Path:
        """Where the studies go unless told."""
        parts = ["claims", *([] if self.objective == "causal" else [self.objective])]
        return Path("studies") / "-".join(
            [*parts, *([] if self.width is None else [f"d{self.width}"])]
        )

    def command(self) -> Command:
        """The command that makes them, with what is not at its default."""
        return Command("claims", self.model_dump(mode="json", exclude_defaults=True))

    def _study(self, name: str) -> Study:
        study = STUDIES[name].replace(seeds=self.seeds)
        if self.objective != "causal":
            study = study.replace(objective=self.objective)
        if self.width is None:
            return study
        return study.replace(**AT_WIDTH.get(name, {}), width=self.width)
