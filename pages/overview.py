"""How a page's runs ended: a table of all, and of a few everything that happened in each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from gradlab.analyses.ending import end_sentence, ending
from gradlab.analyses.finding import Finding
from gradlab.analyses.finding_text import cell_text, heading
from gradlab.analyses.findings import findings
from gradlab.analyses.overview import overview
from gradlab.errors import GradlabError
from gradlab.pages.html import Cell, Table, number
from gradlab.runs.reader import Run


@dataclass(frozen=True)
class Told:
    """A run's end, and the findings of `gradlab inspect`: what, a sentence, and a table if any."""

    name: str
    end: str
    findings: Sequence[tuple[str, str, Table | None]]


@dataclass(frozen=True)
class Overview:
    """How the runs ended: a table, a few of them at length, and what cannot be read."""

    table: Table
    told: Sequence[Told]
    problems: Sequence[str]


def runs_overview(runs: Mapping[str, Run]) -> Overview:
    """How each run ended: everything that happened where they are few."""
    rows = overview(runs)
    table = Table(
        _HEADINGS,
        [_cells(row, runs[row["run"]]) for row in rows.to_dict("records")],
        "How each run ended. A heading sorts the table.",
    )
    told = [_told(name, run) for name, run in runs.items()] if len(runs) <= _FEW else []
    return Overview(table, told, rows["problem"].dropna().tolist())


_FEW = 3
"""Runs of which each is told at length."""


def _told(name: str, run: Run) -> Told:
    try:
        _, end, *found = findings(run)
    except GradlabError as error:
        return Told(name, end_sentence(run), [("damaged", str(error), None)])
    rest = [(finding.what, finding.sentence, _finding_table(finding)) for finding in found]
    return Told(name, end.sentence, rest)


def _finding_table(finding: Finding) -> Table | None:
    rows = finding.table
    if rows is None:
        return None
    cells = [
        [
            Cell(cell_text(name, value))
            if isinstance(value, str)
            else Cell(cell_text(name, value), float("nan") if value is None else value, "number")
            for name, value in zip(rows.columns, row, strict=True)
        ]
        for row in rows.astype(object).where(rows.notna(), None).itertuples(index=False)
    ]
    return Table([heading(name) for name in rows.columns], cells, finding.what, shown=False)


_HEADINGS = (
    "run",
    "how it ended",
    "step",
    "LR there",
    "first overflow",
    "architecture",
    "size",
    "seed",
    "precision",
    "LR at the lowest loss",
    "LR at the collapse",
    "lowest loss",
    "last loss",
    "lowest val. loss",
    "steps",
    "skipped",
    "seconds",
)


def _cells(row: Mapping[Any, Any], run: Run) -> list[Cell]:
    broke = run.verdict is not None and run.verdict.broke
    class_ = "broke" if broke else "done" if run.completed else None
    return [
        Cell(row["run"], class_="name"),
        Cell(ending(run), class_=class_),
        number(_whole(row["step"]), "d"),
        number(row["lr"]),
        _word(row["first_overflow"]),
        _word(row["arch"]),
        _word(row["size"]),
        number(_whole(row["seed"]), "d"),
        _word(row["precision"]),
        number(row["lr_min_loss"]),
        number(row["lr_collapse"]),
        number(row["lowest_loss"]),
        number(row["loss"]),
        number(row["val_loss"]),
        number(_whole(row["steps"]), "d"),
        number(_whole(row["skipped"]), "d"),
        number(row["seconds"], ".0f"),
    ]


def _word(value: Any) -> Cell:
    return Cell(value) if isinstance(value, str) else Cell("–")


def _whole(value: Any) -> int | None:
    return None if pd.isna(value) else int(value)
