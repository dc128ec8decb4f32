"""What happened in a run, or what a study found: `gradlab.inspect`."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from io import StringIO

import pandas as pd
from rich.console import Console, ConsoleOptions, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from gradlab.analyses.claim import judge_all
from gradlab.analyses.claim_studies import read_studies
from gradlab.analyses.claim_words import claim_sentences
from gradlab.analyses.claims import CLAIMS
from gradlab.analyses.finding import Finding
from gradlab.analyses.finding_text import cell_text, course_text, heading
from gradlab.analyses.findings import findings
from gradlab.analyses.league import is_league
from gradlab.analyses.league_words import league_sentences
from gradlab.errors import GradlabError
from gradlab.pages.results import study_result
from gradlab.pages.screen import Screen, Words, results_table
from gradlab.runs.gather import Named, folder_of, sources_of
from gradlab.runs.reader import Run, load
from gradlab.runs.study import StudyRecord, StudySet, find_studies

_WIDTH = 100
"""Columns of an inspection as a string."""


@dataclass(frozen=True, eq=False)
class Inspection:
    """What was found, the most important first. As a string, what `gradlab inspect` prints.

    Attributes:
        findings: What happened in a run: a heading, a sentence, and a table where one is needed.
        sentences: What a study found; none of a run.
        run: The run.
    """

    findings: Sequence[Finding] = ()
    sentences: Sequence[str] = ()
    run: Run | None = None

    def _repr_html_(self) -> str:
        """As a notebook shows it: the run and its course, and below them what was found."""
        above = "" if self.run is None else self.run._repr_html_()
        return f"{above}<pre>{escape(str(self))}</pre>"

    def __str__(self) -> str:
        text = StringIO()
        Screen(file=text, width=_WIDTH, color_system=None).print(self)
        return "\n".join(line.rstrip() for line in text.getvalue().splitlines())

    __repr__ = __str__

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = max((len(finding.what) for finding in self.findings), default=0)
        told = None
        for finding in self.findings:
            if told is False and finding.is_fact:
                yield Text("\nIn numbers, as of every run", style="bold")
            told = finding.is_fact
            line = Table(show_header=False, box=None, pad_edge=False, padding=(0, 2, 0, 0))
            line.add_column(width=width, no_wrap=True, style="bold")
            line.add_column(overflow="fold")
            line.add_row(Text(finding.what), Text(finding.sentence))
            yield line
            if finding.table is not None:
                by_step = finding.table.columns[0] == "step"
                made = course_table(finding.table) if by_step else numbers_table(finding.table)
                yield Padding(made, (0, 0, 1, 2))
        yield from map(Text, self.sentences)


def inspect(source: Named, *, top: int = 5) -> Inspection:
    """What happened in a run, or what a study found, in sentences.

    Of a run: how it ended; the first overflow and what led to it; where FP16's range was tightest;
    what was not finite, and what the recorded tables say. Of a study: how its architectures differ,
    with intervals, and what broke or which learning rate was best. Of the studies behind the
    paper's claims: which are seen.

    Args:
        source: A run, a study, the folder of either, or the probes of `attach`.
        top: Rows of the tables that list the worst of something.

    Raises:
        GradlabError: There is neither, or what was recorded is damaged.
    """
    (place,) = sources_of([source])
    if isinstance(place, Run):
        return Inspection(findings(place, top=top), run=place)
    study = place if isinstance(place, StudyRecord) else find_studies(folder_of(place))
    if study is None:
        run = load(folder_of(place))
        return Inspection(findings(run, top=top), run=run)
    return Inspection(sentences=_sentences(study))


def _sentences(study: StudyRecord) -> list[str]:
    """How a study's architectures differ, with intervals, and what broke or was best.

    Of several studies in one folder: what their league says, or the paper's claims with their
    verdicts.
    """
    if isinstance(study, StudySet):
        sentences = league_sentences(study) if is_league(study) else _claims(study)
        return sentences or [f"{study.folder} says nothing yet: no two of its runs compare."]
    result = study_result(study)
    sentences = [*result.in_words, *result.sentences]
    if not result.files or not sentences:
        raise GradlabError(
            f"{study.folder} says nothing yet: no two runs of one seed that compare have ended."
        )
    return sentences


def _claims(studies: StudySet) -> list[str]:
    found = read_studies(studies.folder)
    if not found:
        inside = [studies.folder / name for name in studies.studies]
        error = GradlabError(
            f"{studies.folder} holds studies, but none of the paper's claims: name one of them, as "
            f"{inside[0]}."
        )
        error.instead = inside
        raise error
    return claim_sentences(judge_all(CLAIMS, found))


def numbers_table(rows: pd.DataFrame) -> Table:
    """A finding's table, row by row."""
    made = results_table()
    for name in rows.columns:
        is_text = any(isinstance(value, str) for value in rows[name])
        made.add_column(heading(name), justify="left" if is_text else "right")
    for row in rows.itertuples(index=False):
        cells = zip(rows.columns, row, strict=True)
        made.add_row(*(Words(cell_text(name, value)) for name, value in cells))
    return made


def course_table(rows: pd.DataFrame) -> Table:
    """The course of some sites' headroom: its steps run across, as the sites' names are long."""
    made = results_table()
    made.add_column("step")
    for step in rows["step"]:
        made.add_column(str(step), justify="right", no_wrap=True)
    for name in rows.columns.drop("step"):
        cells = [heading(name), *(course_text(name, value) for value in rows[name])]
        made.add_row(*map(Words, cells))
    return made
