"""The runs in some folders: those named, and those of the studies named."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gradlab.errors import GradlabError
from gradlab.runs.document import RUN_FILE
from gradlab.runs.reader import Run, folder_of_run, load
from gradlab.runs.study import (
    STUDY_FILE,
    StudyRecord,
    StudySet,
    find_studies,
    find_study,
    study_folders,
)

Source = Run | StudyRecord | str | Path
"""A run, a study, or the folder of either or of several studies."""


class Recording(ABC):
    """Who records a run, as the probes of `gradlab.attach`."""

    @abstractmethod
    def run(self) -> Run:
        """Everything recorded so far."""


Named = Source | Recording
"""What people name: of probes what they have recorded counts."""


@dataclass(frozen=True)
class Gathered:
    """What was found.

    Attributes:
        runs: The runs by a name of their own, the shortest end of their path that tells them
            apart.
        notes: A sentence for each thing that could not be read or is not there yet.
    """

    runs: dict[str, Run]
    notes: tuple[str, ...]


def sources_of(named: Named | Iterable[Named]) -> list[Source]:
    """One or several, each as a run, a study or a folder."""
    several = [named] if isinstance(named, Named) else named
    return [one.run() if isinstance(one, Recording) else one for one in several]


def gather(sources: Iterable[Source]) -> Gathered:
    """Every run of the sources, each once; what cannot be read is noted.

    Args:
        sources: Runs, studies, or the folders of either.

    Raises:
        GradlabError: No run could be read.
    """
    runs: dict[Path, Run] = {}
    notes: dict[str, None] = {}
    for source in sources:
        if isinstance(source, Run):
            runs.setdefault((source.path or Path(f"in memory {len(runs)}")).resolve(), source)
            continue
        for path in folders_of(source):
            _gather_folder(path, runs, notes)
    if not runs:
        raise GradlabError(next(iter(notes), "there is no run: name at least one."))
    return Gathered(dict(zip(_names(runs), runs.values(), strict=True)), tuple(notes))


def _gather_folder(path: Path, runs: dict[Path, Run], notes: dict[str, None]) -> None:
    """Add the runs of a run's or a study's folder, and what is to be said of them."""
    folders = _folders(path)
    is_study = (path / STUDY_FILE).exists() and not (path / RUN_FILE).exists()
    planned: list[str] = []
    try:
        if is_study and (study := find_study(path)):
            planned = study.names
            if not planned:  # its steps were being timed
                notes[f"no run of {path} is known yet: go on by {study.to_go_on}."] = None
    except GradlabError as error:
        notes[str(error)] = None
    order = {name: place for place, name in enumerate(planned)}
    alone = [] if is_study else [path]
    for folder in sorted(folders, key=lambda f: order.get(f.name, len(order))) or alone:
        try:
            runs.setdefault(folder.resolve(), load(folder))
        except GradlabError as error:
            notes[str(error)] = None
    missing = [name for name in planned if name not in {folder.name for folder in folders}]
    if missing:
        notes[_missing_sentence(path, missing, len(planned))] = None


def studies_of(source: Source) -> list[StudyRecord]:
    """A study; of several in one folder all of them together, then each.

    None of a run, nor of a study whose command is not known or whose file cannot be read.
    """
    if isinstance(source, Run):
        return []
    try:
        study = source if isinstance(source, StudyRecord) else find_studies(folder_of(source))
    except GradlabError:  # which is noted where the runs are gathered
        return []
    if isinstance(study, StudySet):
        return [study, *study.studies.values()]
    return [] if study is None or study.command is None else [study]


def folders_of(source: StudyRecord | str | Path) -> list[Path]:
    """The folder of a study or a run; of a folder of studies, theirs."""
    path = folder_of(source)
    is_theirs = (path / RUN_FILE).exists() or _folders(path)
    return [path] if is_theirs else study_folders(path) or [path]


def folder_of(source: StudyRecord | str | Path) -> Path:
    """The folder of a study or a run, where its run.json may be named."""
    return source.folder if isinstance(source, StudyRecord) else folder_of_run(source)


def _folders(path: Path) -> list[Path]:
    """The runs in a folder that is no run itself."""
    if (path / RUN_FILE).exists():
        return []
    return sorted(file.parent for file in path.glob(f"*/{RUN_FILE}"))


def _missing_sentence(study: Path, missing: Sequence[str], planned: int) -> str:
    others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    have = "have" if len(missing) > 1 else "has"
    return (
        f"{len(missing)} of the {planned} runs of {study} {have} not begun: {missing[0]}{others}."
    )


def _names(places: Iterable[Path]) -> list[str]:
    """The shortest end of each path that no other path has too."""
    places = list(places)
    for length in range(1, max(len(place.parts) for place in places) + 1):
        names = ["/".join(place.parts[-length:]) for place in places]
        if len(set(names)) == len(names):
            break
    return names
