"""The studies that the paper's claims are tested by."""

from pathlib import Path
from typing import Any

from gradlab.base_config import Config
from gradlab.errors import ConfigError
from gradlab.runs.command import Command
from gradlab.runs.study import find_study, run_name
from gradlab.settings import Names, check_name
from gradlab.studies.gradients import Gradients
from gradlab.studies.losses import Ablation
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


class Claims(Config):
    """The studies behind the paper's claims (`claims`), each in a folder of its own."""

    only: Names = ()
    """A study to make: gradients, scales, stability, ablation; repeat for more. All by default.
    What lies in the folder of the others counts as well."""
    width: int | None = None
    """Make all of them at nano with this width. At 768, on two cores and with three seeds,
    stability takes about 30 minutes, gradients 20 to 40, scales and ablation some hours each."""
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

    def as_begun(self, out: Path) -> dict[str, Study]:
        """The studies to be made where some have been begun, by this command or by their own.

        One that has all that is asked for and more, as seeds or architectures, stays what it is.

        Raises:
            GradlabError: As of `studies`, or a study's file cannot be read.
        """
        return {name: _as_begun(study, out / name) for name, study in self.studies().items()}

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
        return {name: f"{command.line} --out {out / name}" for name, command in commands.items()}

    def folder(self) -> Path:
        """Where the studies go unless told."""
        return Path("studies") / ("claims" if self.width is None else f"claims-d{self.width}")

    def command(self) -> Command:
        """The command that makes them, with what is not at its default."""
        return Command("claims", self.model_dump(mode="json", exclude_defaults=True))

    def _study(self, name: str) -> Study:
        study = STUDIES[name].replace(seeds=self.seeds)
        if self.width is None:
            return study
        return study.replace(**AT_WIDTH.get(name, {}), width=self.width)


def _as_begun(study: Study, folder: Path) -> Study:
    """The study in a folder, with as many seeds at least, if it has all runs of the one asked for.

    Else the one asked for.
    """
    found = find_study(folder)
    command = None if found is None else found.command
    if command is None or command.name != study.command_name:
        return study
    try:
        begun = type(study)(**command.options)
        begun = begun.replace(seeds=max(begun.seeds, study.seeds))
        runs = {run_name(config): config for config in begun.configs()}
    except ConfigError:  # of another version of gradlab
        return study
    return begun if all(runs.get(run_name(run)) == run for run in study.configs()) else study
