"""What a study is: settings that say which runs it has."""

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from gradlab.config import RunConfig
from gradlab.errors import ConfigError
from gradlab.settings import Settings
from gradlab.studies.news import Tell
from gradlab.studies.table import StudyTable

if TYPE_CHECKING:
    from gradlab.runs.reader import Run


class Study(Settings):
    """Several runs that are trained side by side and compared."""

    kind: ClassVar[str]
    """What its folder is called, before the sizes."""
    table: ClassVar[StudyTable]
    """What the study's own table says of each run."""

    seeds: int = 3
    """Seeds 0 to N-1."""

    @abstractmethod
    def configs(self) -> list[RunConfig]:
        """The runs, in the order in which they are begun.

        Raises:
            ConfigError: A setting is unknown, out of range, or does not fit others.
        """

    def begin(
        self, out: Path, *, resume: bool, tell: Tell
    ) -> tuple[list[RunConfig], dict[str, Any]]:
        """The runs as they are to be trained in a folder, and what the study's file notes of them.

        Args:
            out: The study's folder.
            resume: Go on with the study that lies there.
            tell: Is told what takes long.
        """
        return self.configs(), {}

    def more(self, runs: "Sequence[Run]") -> list[RunConfig]:
        """Runs that follow from others, as in a search; none unless overridden.

        Args:
            runs: Those of the study that have been begun.

        Returns:
            Some may be planned already: those are not begun twice.
        """
        return []

    def folder(self) -> Path:
        """Where the study goes unless told: named after its sizes, the same every time.

        Of masked models the name says so.
        """
        configs = self.configs()
        sizes = dict.fromkeys(config.size for config in configs)
        masked = [] if configs[0].model.is_causal else [configs[0].model.objective]
        return Path("studies") / "-".join([self.kind, *sizes, *masked])

    def each_seed(self) -> range:
        """The seeds.

        Raises:
            ConfigError: There are none, or too many.
        """
        if self.seeds < 1:
            raise ConfigError(f"seeds = {self.seeds}: a study needs at least one seed.")
        if self.seeds > 10_000:
            raise ConfigError(f"seeds = {self.seeds}: a study has 10,000 seeds at most.")
        return range(self.seeds)
