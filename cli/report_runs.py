"""The runs that a report is about: those named, and those of the studies named."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gradlab.errors import GradlabError
from gradlab.runs.document import RUN_FILE
from gradlab.runs.reader import Run, load
from gradlab.runs.study import find_study


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


def gather(paths: Sequence[Path]) -> Gathered:
    """Every run of the folders given, each once; what cannot be read is noted.

    Args:
        paths: Folders of runs, or of studies (folders of runs).

    Raises:
        GradlabError: No run could be read.
    """
    runs: dict[Path, Run] = {}
    notes: list[str] = []
    for path in paths:
        folders = _folders(path)
        try:
            planned = _planned(path) if folders else []
        except GradlabError as error:
            planned = []
            notes.append(str(error))
        order = {name: place for place, name in enumerate(planned)}
        for folder in sorted(folders, key=lambda f: order.get(f.name, len(order))) or [path]:
            try:
                runs.setdefault(_place(folder), load(folder))
            except GradlabError as error:
                notes.append(str(error))
        missing = [name for name in planned if name not in {folder.name for folder in folders}]
        if missing:
            notes.append(_missing_sentence(path, missing, len(planned)))
    notes = list(dict.fromkeys(notes))
    if not runs:
        raise GradlabError(notes[0] if notes else "there is no run: name at least one.")
    return Gathered(dict(zip(_names(runs), runs.values(), strict=True)), tuple(notes))


def _folders(path: Path) -> list[Path]:
    """The runs in a folder that is no run itself."""
    if path.name == RUN_FILE or (path / RUN_FILE).exists():
        return []
    return sorted(file.parent for file in path.glob(f"*/{RUN_FILE}"))


def _place(folder: Path) -> Path:
    place = folder.resolve()
    return place.parent if place.name == RUN_FILE else place


def _planned(study: Path) -> list[str]:
    """The names of a study's runs, in the order in which it makes them."""
    found = find_study(study)
    return [] if found is None else found.names


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
