"""What the studies of a page found: the tables and sentences that their commands print."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from gradlab.analyses.claim import RULE, judge_all
from gradlab.analyses.claim_studies import read_studies
from gradlab.analyses.claim_words import not_begun
from gradlab.analyses.claims import CLAIMS
from gradlab.analyses.finding import counted
from gradlab.analyses.league import is_league
from gradlab.errors import GradlabError
from gradlab.figures.kinds import KINDS, STABILITY_KINDS
from gradlab.pages.claims import claims_table
from gradlab.pages.pictures import Picture, study_pictures
from gradlab.pages.results import SIDE_BY_SIDE, study_result
from gradlab.pages.table import Table
from gradlab.runs.gather import Source, studies_of
from gradlab.runs.study import StudyRecord, StudySet


@dataclass(frozen=True)
class Found:
    """What a study found.

    Attributes:
        heading: Which study it is.
        sentences: What it found.
        tables: Likewise.
        runs: The folders of its runs.
        figures: The headings of its kinds of figures, which are shown beside its tables.
        pictures: These.
    """

    heading: str
    sentences: Sequence[str]
    tables: Sequence[Table] = ()
    runs: frozenset[Path] = frozenset()
    figures: Sequence[str] = ()
    pictures: Sequence[Picture] = ()


_FIGURES: Mapping[str, Sequence[str]] = MappingProxyType(
    {
        "run-stability": ("figure 5", "headroom"),
        "grad-norms": SIDE_BY_SIDE,
        "ablate": ("figure 2",),
        "variants": ("figure 2",),
        "lr-search": ("table 1",),
        "limit": (),
        "depth-scan": (),
        "league": (),
    }
)
"""The kinds of a study's figures, by the command that makes it."""


def studies_found(sources: Iterable[Source]) -> list[Found]:
    """What the studies among some sources found, the claims before the studies behind them.

    What cannot be said of a study is a sentence there.
    """
    found: dict[Path, Found] = {}
    for source in sources:
        for one in studies_of(source):
            found.setdefault(one.folder.resolve(), _found(one, len(found)))
    return list(found.values())


def _found(study: StudyRecord, place: int) -> Found:
    """What a study found.

    Args:
        study: The study.
        place: Its place among all, which tells the names in its figures apart from others'.
    """
    runs = frozenset((study.folder / name).resolve() for name in study.names)
    try:
        if isinstance(study, StudySet) and not is_league(study):
            return _claims(study)
        result = study_result(study)
        titles = _FIGURES[study.command.name] if study.command else ()
        kinds = (*STABILITY_KINDS, *KINDS)
        figures = [kind.heading for kind in kinds if kind.title in titles]
        shown = study_pictures(study, place)
        return Found(_heading(study), result.sentences, result.tables, runs, figures, shown)
    except GradlabError as error:
        return Found(_heading(study), [str(error)])


def _claims(studies: StudySet) -> Found:
    table = judge_all(CLAIMS, read_studies(studies.folder))
    if table.empty:
        return Found("", [])
    return Found("The paper's claims", [*not_begun(table), f"{RULE}."], [claims_table(table)])


def _heading(study: StudyRecord) -> str:
    """Its command, its folder, and how many runs are behind it."""
    name = study.folder.resolve().name
    what = name if study.command is None else f"{study.command.name} ({name})"
    if isinstance(study, StudySet):  # those behind it say how many have ended
        return f"{what}: {counted(len(study.names), 'run')}"
    ended = sum(run.verdict is not None for run in study.runs)
    of = f"{ended} of {len(study.names)}" if ended < len(study.names) else str(ended)
    return f"{what}: {of} run{'s' * (len(study.names) != 1)}"
