"""The studies that the paper's claims are tested by."""

from pathlib import Path

from gradlab.config import Config
from gradlab.runs.study import find_study
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
    "stability": Stability(lr_step=[2e-4]),
    "ablation": Ablation(val_every=25),
}
"""The studies, in the order in which they are made. Together about half an hour on two cores."""


class Claims(Config):
    """The studies behind the paper's claims (`claims`), each in a folder of its own."""

    only: Names = ()
    """A study to make: gradients, scales, stability, ablation; repeat for more. All by default.
    What lies in the folder of the others counts as well."""
    seeds: int = 3
    """Seeds 0 to N-1."""

    def studies(self) -> dict[str, Study]:
        """The studies to be made, by the names of their folders.

        Raises:
            ConfigError: A name is unknown.
        """
        for name in self.only:
            check_name("only", name, STUDIES)
        return {name: self._seeded(name) for name in STUDIES if name in (self.only or STUDIES)}

    def lines(self, out: Path) -> dict[str, str]:
        """What one types to make each of all the studies: as it was begun, if it was.

        Raises:
            GradlabError: A study's file cannot be read.
        """
        found = {name: find_study(out / name) for name in STUDIES}
        commands = {
            name: (study and study.command) or self._seeded(name).command()
            for name, study in found.items()
        }
        return {name: f"{command.line} --out {out / name}" for name, command in commands.items()}

    def _seeded(self, name: str) -> Study:
        return STUDIES[name].replace(seeds=self.seeds)
