"""A study's folder: `study.json`, which says what runs it has and what made it, and those runs.

    <folder>/study.json         the runs' configs, and what is noted beside them
    <folder>/<run name>/        a run directory each
    <folder>/<table>.csv        a row a run

A folder of several studies may have a `studies.json`, which says what made them all.

Needs no torch, and pyarrow only for the runs.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from gradlab.config import RunConfig
from gradlab.errors import GradlabError, in_words
from gradlab.paths import as_path
from gradlab.runs.command import COMMAND_NOTE, Command
from gradlab.runs.csv_files import read_csv
from gradlab.runs.files import read_regular

if TYPE_CHECKING:
    import pandas as pd

    from gradlab.runs.reader import Run

STUDY_FILE = "study.json"

STUDIES_FILE = "studies.json"
"""In the folder of several studies: the command that makes them all, if one does."""

TABLE_FILES = ("stability.csv", "runs.csv")
"""What a study's own table is called: that of a stability test, and of all others."""

_LARGEST = 1 << 26
"""Bytes of a `study.json` that are read at most; a run takes some 2,000."""


def run_name(config: RunConfig) -> str:
    """The folder of a run in its study: size, architecture, variant, rate and seed."""
    schedule = config.schedule
    rate = schedule.lr_step if schedule.kind == "ramp" else schedule.lr
    return f"{config.size}_{config.row}_{schedule.kind}{rate:g}_seed{config.seed}"


@dataclass(frozen=True)
class StudyRecord:
    """A study as its folder has it.

    Attributes:
        folder: Where it lies.
        document: What its `study.json` says.
        told: Why runs failed, by name, as far as it was told while they were trained.
    """

    folder: Path
    document: Mapping[str, Any]
    told: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def names(self) -> list[str]:
        """The names of all its runs, in its order."""
        return list(self.document["runs"])

    @property
    def configs(self) -> dict[str, RunConfig]:
        """All its runs by name, begun or not.

        Raises:
            GradlabError: One cannot be read.
        """
        try:
            return {
                name: RunConfig.from_mapping(config)
                for name, config in self.document["runs"].items()
            }
        except (TypeError, GradlabError) as error:
            raise _damaged(self.folder / STUDY_FILE, in_words(error)) from error

    @property
    def notes(self) -> dict[str, Any]:
        """What is noted beside the runs, by name."""
        return {name: value for name, value in self.document.items() if name != "runs"}

    @property
    def command(self) -> Command | None:
        """The command that makes it, with the options that are not at their default."""
        match self.document.get(COMMAND_NOTE):
            case {"name": str(name), "options": dict(options)}:
                return Command(name, options)
        return None

    @property
    def to_go_on(self) -> str:
        """What one goes on with it by, as a sentence has it."""
        command = self.command
        if command is None:
            return "the command that made it, with --resume"
        return f"`{command.at(self.folder, resume=True)}`"

    @property
    def runs(self) -> "list[Run]":
        """Its runs that have been begun, in its order."""
        from gradlab.runs.document import RUN_FILE
        from gradlab.runs.reader import load

        folders = (self.folder / name for name in self.names)
        return [load(folder) for folder in folders if (folder / RUN_FILE).exists()]

    @property
    def has_table(self) -> bool:
        """Whether its own table is there: since its first run was begun."""
        return any((self.folder / name).exists() for name in TABLE_FILES)

    @property
    def table(self) -> "pd.DataFrame":
        """Its own table: a row for each run that has ended.

        Raises:
            GradlabError: No run has ended yet.
        """
        for name in TABLE_FILES:
            if (self.folder / name).exists():
                return read_csv(self.folder / name)
        raise GradlabError(f"{self.folder} has no table: no run of the study has ended yet.")

    @property
    def failed(self) -> dict[str, str]:
        """The runs that failed by name, and why each did, in a sentence."""
        recorded = {
            run.path.name: str(run.info.get("error") or "no reason given")
            for run in self.runs
            if run.status == "error" and run.path is not None
        }
        return {**recorded, **self.told}


@dataclass(frozen=True, kw_only=True)
class StudySet(StudyRecord):
    """Studies in one folder, read as one study.

    The names of its runs begin with their study: `stability/nano_pre-ln_ramp0.0002_seed0`.

    Attributes:
        studies: By the names of their folders.
    """

    studies: Mapping[str, StudyRecord]

    @classmethod
    def of(cls, folder: Path, studies: Mapping[str, StudyRecord], notes: Mapping[str, Any]) -> Self:
        """The studies as one, with what is noted beside them."""
        runs = {
            f"{name}/{run}": config
            for name, study in studies.items()
            for run, config in study.document["runs"].items()
        }
        return cls(folder, {**notes, "runs": runs}, studies=studies)

    @property
    def has_table(self) -> bool:
        """Whether one of them has a table."""
        return any(study.has_table for study in self.studies.values())

    @property
    def table(self) -> "pd.DataFrame":
        """The tables of its studies as one, with the column study before the others."""
        import pandas as pd

        tables = {name: study.table for name, study in self.studies.items() if study.has_table}
        if not tables:
            raise GradlabError(f"{self.folder} has no table: no run of its studies has ended yet.")
        return pd.concat(tables, names=["study"]).reset_index("study").reset_index(drop=True)

    @property
    def failed(self) -> dict[str, str]:
        """The runs that failed, and why each did."""
        return {
            f"{name}/{run}": reason
            for name, study in self.studies.items()
            for run, reason in study.failed.items()
        } | dict(self.told)


def load_study(folder: str | Path) -> StudyRecord:
    """The study in a folder, or those in the folders in it as one (`StudySet`).

    Raises:
        GradlabError: There is none, or its file cannot be read.
    """
    found = find_studies(as_path(folder))
    if found is None:
        is_file = as_path(folder).is_file()
        why = "it is a file, and a study is a folder" if is_file else f"it has no {STUDY_FILE}"
        raise GradlabError(f"there is no study in {folder}: {why}.")
    return found


def find_study(folder: Path) -> StudyRecord | None:
    """The study in a folder; None where there is none.

    Raises:
        GradlabError: Its file cannot be read, or names no runs.
    """
    document = _read(folder / STUDY_FILE)
    if document is None:
        return None
    if not isinstance(document, dict) or not isinstance(document.get("runs"), dict):
        raise _damaged(folder / STUDY_FILE, "it names no runs")
    return StudyRecord(folder, document)


def _read(file: Path) -> Any:
    """What a file of JSON holds; None where there is none."""
    try:
        return json.loads(read_regular(file, at_most=_LARGEST))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, RecursionError) as error:
        raise _damaged(file, f"no JSON: {error}") from None


def find_studies(folder: Path) -> StudyRecord | None:
    """The study in a folder, or those in the folders in it as one; None where there is neither.

    Raises:
        GradlabError: As of `find_study`.
    """
    inside = {place.name: find_study(place) for place in study_folders(folder)}
    studies = {name: study for name, study in inside.items() if study is not None}
    if not studies:
        return find_study(folder)
    notes = _read(folder / STUDIES_FILE)
    return StudySet.of(folder, studies, notes if isinstance(notes, dict) else {})


def study_folders(folder: Path) -> list[Path]:
    """The folders in a folder that have a study; none where it has one itself."""
    if (folder / STUDY_FILE).exists():
        return []
    return sorted(file.parent for file in folder.glob(f"*/{STUDY_FILE}"))


def _damaged(file: Path, reason: str) -> GradlabError:
    return GradlabError(
        f"{file} is damaged, so which runs the study has is not known ({reason.rstrip('.')}): put "
        "back a copy of it, or begin the study in another folder."
    )


def study_commands(runs: "Iterable[Run]") -> list[Command | None]:
    """The command of the study that each run is of.

    None for a run outside a study, or of one whose file has no command or cannot be read.
    """
    studies: dict[Path, StudyRecord | None] = {}
    found: list[Command | None] = []
    for run in runs:
        place = None if run.path is None else run.path.resolve()
        if place is None:
            found.append(None)
            continue
        if place.parent not in studies:
            studies[place.parent] = _readable(place.parent)
        study = studies[place.parent]
        found.append(study.command if study and place.name in study.names else None)
    return found


def to_go_on(run: Path) -> str:
    """What one goes on with a run in a folder by: the command of its study, or `gradlab train`."""
    place = run.resolve()
    study = _readable(run.parent if run.name == place.name else place.parent)
    if study and place.name in study.names:
        return study.to_go_on
    return f"`{Command('train', {'config': run}).at(run, resume=True)}`"


def _readable(folder: Path) -> StudyRecord | None:
    try:
        return find_study(folder)
    except GradlabError:
        return None
