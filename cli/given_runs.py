"""What `gradlab figures` was given: runs, and stability studies with their tables."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gradlab.errors import GradlabError

if TYPE_CHECKING:
    from gradlab.runs.reader import Run

STABILITY_FILE = "stability.csv"


@dataclass(frozen=True)
class GivenRuns:
    """What was found.

    Attributes:
        runs: In the order given, those of a study in its own.
        stability: The folders of the stability studies.
        notes: A sentence for each thing that could not be read, and each run without an end.
    """

    runs: "list[Run]"
    stability: list[Path]
    notes: list[str]


def read_runs(paths: Sequence[Path]) -> GivenRuns:
    """The runs in some folders: a study counts as its runs, and a run that comes twice once.

    Raises:
        GradlabError: There is nothing in them to draw.
    """
    from gradlab.cli.report_runs import gather

    stability = [path for path in dict.fromkeys(paths) if (path / STABILITY_FILE).exists()]
    try:
        gathered = gather(paths)
    except GradlabError:
        if not stability:
            raise
        return GivenRuns([], stability, [])
    notes = list(gathered.notes)
    notes += [
        f"{run.path} is still being written, or was killed: drawn as far as it is."
        for run in gathered.runs.values()
        if run.status == "running"
    ]
    return GivenRuns(list(gathered.runs.values()), stability, notes)
