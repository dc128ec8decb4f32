"""Runs as one HTML page that needs nothing else: what happened, figures, settings, commands."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gradlab.analyses.comparable import what_differs
from gradlab.analyses.finding import counted
from gradlab.figures.run_sets import told_once
from gradlab.pages.curves import library, page_curves
from gradlab.pages.groups import FREE, Group, groups, subject
from gradlab.pages.html import environment
from gradlab.pages.overview import runs_overview
from gradlab.pages.pictures import Picture, pictures
from gradlab.pages.repeat import repeat
from gradlab.pages.settings import side_by_side
from gradlab.pages.studies import Found, studies_found
from gradlab.pages.table import Table
from gradlab.pages.tables import group_sentences, group_tables
from gradlab.paths import as_path
from gradlab.runs.gather import Gathered, Named, Source, folder_of, gather, sources_of
from gradlab.runs.output_file import check_free, write_file
from gradlab.runs.reader import Run


def report(
    source: Named | Iterable[Named],
    *,
    out: str | Path,
    force: bool = False,
) -> Gathered:
    """Write what runs say as one HTML file that needs nothing else.

    How each run ended, the figures that the runs' tables allow, tables that sort, the settings
    side by side, and the commands, versions and text to repeat them. Runs that do not compare stand
    apart. What cannot be read is said on the page, and the rest is made all the same.

    Args:
        source: A run, a study, the folder of either, the probes of `attach`, or several of these.
        out: The file.
        force: Overwrite it if it is there.

    Returns:
        The runs on the page, and a sentence for each thing that could not be read.

    Raises:
        GradlabError: No run could be read, or the file is there or cannot be written.
    """
    sources = sources_of(source)
    file = as_path(out)
    check_free(file, force=force)
    gathered = gather(sources)
    named = [str(_name(one)) for one in sources]
    write_file(file, page(gathered, named, studies_found(sources)).encode())
    return gathered


def _name(source: Source) -> Path | str:
    if isinstance(source, Run):
        return source.path or "a run in memory"
    return folder_of(source) if not isinstance(source, str | Path) else source


@dataclass(frozen=True)
class Compared:
    """A group's figures and tables.

    Attributes:
        heading: What its runs are.
        apart: Why they are not compared with the first group's.
        pictures: Its figures.
        tables: Its tables.
        notes: What is not shown, a sentence each.
    """

    heading: str
    apart: str | None
    pictures: Sequence[Picture]
    tables: Sequence[Table]
    notes: Sequence[str]


_LARGEST = 4_500_000
"""Bytes of a page's figures and curves: with all else it stays below five million."""


def page(gathered: Gathered, sources: Sequence[str], studies: Sequence[Found] = ()) -> str:
    """The whole page.

    Args:
        gathered: The runs.
        sources: What the user named, for the command that makes the page again.
        studies: What the studies among them found.
    """
    runs, found = gathered.runs, groups(gathered.runs)
    short, comparisons = [*studies], []
    seen: set[bytes] = set()
    for place, group in enumerate(found):
        teller = next((i for i, study in enumerate(short) if _folders(group) <= study.runs), None)
        compared = _compared(group, place, found[0], seen, told=teller is not None)
        if teller is not None:
            short[teller], compared = _moved(short[teller], compared, several=len(found) > 1)
        elif said := group_sentences(group):
            short.append(Found(_heading(group), said))
        comparisons.append(compared)
    pictured = [*(found.pictures for found in short), *(one.pictures for one in comparisons)]
    drawn = sum(len(picture.svg) for several in pictured for picture in several)
    curves = page_curves(runs, _LARGEST - drawn)
    return (
        environment()
        .get_template("page.html")
        .render(
            title=f"gradlab: {next(iter(runs)) if len(runs) == 1 else counted(len(runs), 'run')}",
            sources=sources,
            missing=gathered.notes,
            short=[one for one in short if one.sentences or one.tables],
            overview=runs_overview(runs),
            curves=curves.runs,
            curves_missing=curves.notes,
            library=library(),
            comparisons=comparisons,
            settings=side_by_side(runs),
            repeat=repeat(runs, sources),
        )
    )


def _folders(group: Group) -> set[Path | None]:
    return {run.path.resolve() if run.path else None for run in group.runs.values()}


def _moved(study: Found, compared: Compared, *, several: bool) -> tuple[Found, Compared]:
    """A study and its group, with the study's figures moved from the one to the other.

    Where there are several groups, each figure says of which it is.
    """
    mine = [picture for picture in compared.pictures if picture.kind in study.figures]
    if several:
        mine = [
            replace(picture, heading=f"{picture.kind} ({picture.of})") if picture.of else picture
            for picture in mine
        ]
    rest = [picture for picture in compared.pictures if picture.kind not in study.figures]
    study = replace(study, pictures=[*study.pictures, *mine])
    return study, replace(compared, pictures=rest)


def _compared(group: Group, place: int, first: Group, seen: set[bytes], *, told: bool) -> Compared:
    apart = None
    one, other = (next(iter(some.runs.values())) for some in (first, group))
    if place and not other.attached:
        word = what_differs(one, other, free=FREE)
        apart = f"Not compared with the first runs: their {word} differ."
    drawn, tables = pictures(group, place, seen), group_tables(group, told=told)
    return Compared(_heading(group), apart, drawn, tables, told_once(group.notes))


def _heading(group: Group) -> str:
    """What a group's runs are, and how many."""
    subjects = list(dict.fromkeys(subject(run) for run in group.runs.values()))
    heading = "; ".join(subjects[:3]) + (" …" if len(subjects) > 3 else "")
    return f"{heading} ({counted(len(group.runs), 'run')})"
