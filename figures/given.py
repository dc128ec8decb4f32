"""What there is to draw in runs, studies and their folders; `gradlab.draw`."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from gradlab.analyses.comparable import name_of
from gradlab.analyses.ending import ending
from gradlab.analyses.stability_table import STABILITY_FILE, read_stability
from gradlab.errors import GradlabError
from gradlab.figures.drawings import drawings
from gradlab.figures.kind import Choices
from gradlab.figures.run_sets import told_once
from gradlab.runs.gather import Named, Source, folders_of, gather, sources_of, studies_of
from gradlab.runs.reader import Run
from gradlab.runs.study import StudyRecord


@dataclass(frozen=True)
class Given:
    """What was found.

    Attributes:
        runs: In the order given, those of a study in its own, each once.
        stability: The tables of the stability studies by the name of the folder.
        studies: All studies, those that are several in one folder as one and each.
        notes: A sentence for each thing that could not be read, and each run without an end.
    """

    runs: Sequence[Run]
    stability: Mapping[str, pd.DataFrame]
    studies: Sequence[StudyRecord]
    notes: Sequence[str]


def read_given(sources: Iterable[Source], *, only: Collection[str] = ()) -> Given:
    """The runs and the stability tables of some folders: a study counts as its runs.

    Args:
        sources: Runs, studies, or their folders.
        only: The titles of the figures that are wanted; all if none is named.

    Raises:
        GradlabError: There is nothing in them to draw.
    """
    sources = list(sources)
    folders = [
        folder.resolve()
        for source in sources
        if not isinstance(source, Run)
        for folder in folders_of(source)
    ]
    studies = [folder for folder in dict.fromkeys(folders) if (folder / STABILITY_FILE).exists()]
    stability: dict[str, pd.DataFrame] = {}
    notes: list[str] = []
    for folder in studies:
        try:
            table = read_stability(folder)
            if table.empty:
                file = folder / STABILITY_FILE
                raise GradlabError(f"{file} has no rows: no run has ended yet.")
            stability[folder.name if folder.name not in stability else str(folder)] = table
        except GradlabError as error:
            notes.append(f"figure 5 was not made: {error}")
    if not studies and (not only or "figure 5" in only):
        notes.append(
            f"figure 5 needs {STABILITY_FILE}: make it with gradlab run-stability, and name the "
            "study's folder."
        )
    try:
        gathered = gather(sources)
    except GradlabError:
        if not studies:
            raise
        return Given([], stability, (), notes)
    runs = list(gathered.runs.values())
    return Given(
        runs,
        stability,
        [study for source in sources for study in studies_of(source)],
        [
            *gathered.notes,
            *(
                f"{name_of(run)} is drawn as far as it goes: {ending(run)}."
                for run in runs
                if run.status in ("running", "stopped")
            ),
            *notes,
        ],
    )


def draw(
    source: Named | Iterable[Named],
    *,
    only: Iterable[str] = (),
    baseline: str | None = None,
    compute: str = "flops",
    average: int | None = None,
) -> dict[str, Figure]:
    """All the figures that recorded tables allow, as `gradlab figures` makes them.

    Args:
        source: A run, a study, the folder of either, the probes of `attach`, or several of these:
            runs that compare share a figure.
        only: The figures to draw by their titles, `course`, `figure 3`; all if none is named.
        baseline: What figures 2 and 7 compare with; None for pre-ln, or else the first.
        compute: What figure 2 counts: `flops`, `seconds` or `tokens`.
        average: Steps of the windows of figures 3 and 7; None for as many as the study was told.

    Returns:
        The figures by name, `scales`; pyplot does not hold them, so that none is shown twice.

    Raises:
        GradlabError: There is nothing to draw, or no figure of such a title.
    """
    sources = sources_of(source)
    only = list(only)
    given = read_given(sources, only=only)
    choices = Choices(baseline=baseline, compute=compute, average=average).of(given.runs)
    reasons: list[str] = []
    every = drawings(
        given.runs,
        given.stability,
        note=reasons.append,
        choices=choices,
        only=only,
        studies=given.studies,
    )
    found = {drawn.drawing.name: drawn.drawing.figure for drawn in every}
    for figure in found.values():
        plt.close(figure)
    if not found:
        told = [*given.notes, *told_once(reasons)]
        raise GradlabError(" ".join(told) or "too few runs have ended: there is nothing to draw.")
    return found
