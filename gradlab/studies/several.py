"""Several studies that are made one after another, and read together."""

from abc import abstractmethod
from pathlib import Path

from gradlab.base_config import Config
from gradlab.errors import ConfigError
from gradlab.runs.command import Command
from gradlab.runs.study import find_study, run_name
from gradlab.studies.study import Study


class Studies(Config):
    """Studies in folders of their own within one (`claims`, `league`)."""

    @abstractmethod
    def studies(self) -> dict[str, Study]:
        """The studies to be made, by the names of their folders, in the order of their making.

        Raises:
            ConfigError: A setting is unknown, out of range, or does not fit others.
        """

    @abstractmethod
    def folder(self) -> Path:
        """Where the studies go unless told."""

    @abstractmethod
    def command(self) -> Command:
        """The command that makes them, with what is not at its default."""

    def as_begun(self, out: Path) -> dict[str, Study]:
        """The studies to be made where some have been begun, by this command or by their own.

        One that has all that is asked for and more, as seeds or architectures, stays what it is.

        Raises:
            GradlabError: As of `studies`, or a study's file cannot be read.
        """
        return {name: _as_begun(study, out / name) for name, study in self.studies().items()}


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
    # At equal time or equal steps: before they are timed, the runs are alike.
    if getattr(begun, "equal", None) != getattr(study, "equal", None):
        return study
    return begun if all(runs.get(run_name(run)) == run for run in study.configs()) else study
