"""Every figure that runs and stability tables allow, and a sentence for each that they do not."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
from matplotlib import pyplot as plt

from gradlab.errors import GradlabError, unknown
from gradlab.figures import kinds
from gradlab.figures.kind import (
    AS_USUAL,
    Choices,
    Drawing,
    Kind,
    RunsKind,
    StabilityKind,
    StudyKind,
)
from gradlab.figures.run_kinds import draw_headroom
from gradlab.figures.run_sets import run_sets, safe_name, usable_runs
from gradlab.figures.save import save
from gradlab.figures.study_kinds import STUDY_KINDS
from gradlab.runs.csv_files import write_csv
from gradlab.runs.reader import Run
from gradlab.runs.study import StudyRecord


@dataclass(frozen=True)
class Drawn:
    """A drawing, its kind, and the runs in it; of a study's table these are not known."""

    kind: Kind
    drawing: Drawing
    runs: Sequence[Run] = ()


def save_drawing(
    drawing: Drawing, out: Path, formats: Sequence[str] = ("png", "pdf")
) -> list[Path]:
    """Write the figure, and its table as a CSV file; the figure is closed.

    Raises:
        GradlabError: A file cannot be written.
    """
    files = save(drawing.figure, out / drawing.name, formats)
    plt.close(drawing.figure)
    if drawing.table is not None:
        files.append(write_csv(out / f"{drawing.name}.csv", drawing.table))
    return files


def drawings(
    runs: Sequence[Run],
    stability: Mapping[str, pd.DataFrame],
    *,
    note: Callable[[str], None],
    choices: Choices = AS_USUAL,
    by_heading: bool = False,
    only: Collection[str] = (),
    studies: Sequence[StudyRecord] = (),
) -> Iterator[Drawn]:
    """The figures, each made as it is asked for, in the order of a page.

    Args:
        runs: Any runs: those that compare share a figure, the others have figures of their own.
        stability: Tables of stability studies (`gradlab.analyses.stability_table`) by name.
        note: Told, in a sentence, of each figure that cannot be made and of what is not in one.
        choices: What figures leave open.
        by_heading: The sentences name a kind by what it shows, not by its number.
        only: The titles of the kinds to draw, `course`, `figure 3`; all if none is named.
        studies: Studies that have figures of their own (`gradlab.figures.study_kinds`).

    Raises:
        GradlabError: There is no kind of such a title.
    """
    taken: set[str] = set()
    for drawn in _each(runs, stability, note, choices, by_heading, only, studies):
        name, count = drawn.drawing.name, 1
        while name.lower() in taken:  # as some file systems tell names apart
            count += 1
            name = f"{drawn.drawing.name}_{count}"
        taken.add(name.lower())
        yield replace(drawn, drawing=replace(drawn.drawing, name=name))


def _each(
    runs: Sequence[Run],
    stability: Mapping[str, pd.DataFrame],
    note: Callable[[str], None],
    choices: Choices,
    by_heading: bool,
    only: Collection[str],
    studies: Sequence[StudyRecord],
) -> Iterator[Drawn]:
    """The figures of `drawings`, of which two may have one name."""
    every: list[StudyKind | StabilityKind | RunsKind] = [
        *STUDY_KINDS,
        *kinds.STABILITY_KINDS,
        *kinds.KINDS,
    ]
    for title in only:
        if title not in (titles := list(dict.fromkeys(kind.title for kind in every))):
            raise GradlabError(unknown("figure", title, titles))
    for kind in every:
        if only and kind.title not in only:
            continue
        kind = replace(kind, title=kind.heading) if by_heading else kind
        if isinstance(kind, StudyKind):
            mine = [study for study in studies if kind.is_of(study)]
            if only and not mine:
                note(f"{kind.title} needs a study of gradlab {kind.command}: name its folder.")
            for study, name in zip(mine, _folders(mine), strict=True):
                suffix = f"_{name}" if len(mine) > 1 else ""
                yield from _drawn(kind, kind.draw(study), suffix, (), note)
        elif isinstance(kind, StabilityKind):
            for name, table in stability.items():
                suffix = f"_{name}" if len(stability) > 1 else ""
                yield from _drawn(kind, kind.draw(table), suffix, (), note)
        else:
            usable, left_out = usable_runs(kind, runs)
            sets, apart = run_sets(kind, usable)
            for sentence in (*left_out, *apart):
                note(sentence)
            for part in sets:
                made = kind.draw(part.runs, choices)
                yield from _drawn(kind, made, part.suffix, part.runs, note)


def _folders(studies: Sequence[StudyRecord]) -> list[str]:
    """The name of each study's folder, behind that of the folder around it if two are alike."""
    places = [study.folder.resolve() for study in studies]
    if len({place.name for place in places}) == len(places):
        return [place.name for place in places]
    return [f"{place.parent.name}_{place.name}" for place in places]


def _drawn(
    kind: Kind,
    made: Iterator[Drawing],
    suffix: str,
    runs: Sequence[Run],
    note: Callable[[str], None],
) -> Iterator[Drawn]:
    title = f"{kind.title} ({suffix[1:]})" if suffix else kind.title
    for drawing in until_error(made, title, note):
        yield Drawn(kind, replace(drawing, name=safe_name(drawing.name + suffix)), runs)


def until_error(
    made: Iterator[Drawing], title: str, note: Callable[[str], None]
) -> Iterator[Drawing]:
    """Drawings as they are made; an error ends them, and is noted under the title."""
    try:
        yield from made
    except GradlabError as error:
        note(f"{title} was not made: {error}")


def study_drawings(
    table: pd.DataFrame, runs: Sequence[Run], *, note: Callable[[str], None]
) -> Iterator[Drawing]:
    """The figures beside a stability study: of its table, and the roads to the break.

    Args:
        table: Its stability table.
        runs: Its runs.
        note: Told of each figure that cannot be made.
    """
    for kind in kinds.STABILITY_KINDS:
        for drawing in until_error(kind.draw(table), kind.title, note):
            yield drawing
    roads: dict[str, list[Run]] = {}
    for run in runs:
        if run.status == "finished" and "headroom" in run.tables:
            name = f"headroom_{run.config.size}_ramp{run.config.schedule.lr_step:g}"
            roads.setdefault(name, []).append(run)
    for name, alike in roads.items():
        alike.sort(key=lambda run: run.config.seed)
        for drawing in until_error(draw_headroom(alike), name, note):
            yield replace(drawing, name=name)
