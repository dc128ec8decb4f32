"""How a page's runs ended: a table of all, and everything that happened in each."""

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
from gradlab.pages.table import Cell, Table, number
from gradlab.runs.reader import Run


@dataclass(frozen=True)
class Told:
    """All that `gradlab inspect` says of a run.

    Attributes:
        name: The run.
        how: How it ended, in a few words.
        end: The same in a sentence.
        findings: What, a sentence, and a table if any.
    """

    name: str
    how: str
    end: str
    findings: Sequence[tuple[str, str, Table | None]]


@dataclass(frozen=True)
class Overview:
    """How the runs ended: a table, each of them at length, and what cannot be read.

    Attributes:
        table: A row a run.
        alike: What is the same in all, which the table leaves out.
        told: The runs, in the table's order.
        few: Whether each is told without being asked.
        problems: A sentence each.
    """

    table: Table
    alike: Sequence[tuple[str, str]]
    told: Sequence[Told]
    few: bool
    problems: Sequence[str]


_FEW = 3
"""Runs of which each is told at length without being asked."""


def runs_overview(runs: Mapping[str, Run]) -> Overview:
    """How each run ended, and everything that happened in it."""
    rows = overview(runs)
    cells = [_cells(row, runs[row["run"]]) for row in rows.to_dict("records")]
    shown, alike = [], []
    for column in cells[0]:
        texts = {row[column].text for row in cells}
        if column in _ASIDE or texts == _USUAL.get(column):
            continue
        if column in _ALWAYS or len(texts) > 1 or (len(cells) == 1 and texts != {"–"}):
            shown.append(column)
        elif texts != {"–"}:
            alike.append((column, next(iter(texts))))
    table = Table(
        shown,
        [[row[column] for column in shown] for row in cells],
        "How each run ended. A heading sorts the table; a name leads to all of its run.",
    )
    told = [_told(row["run"].text, runs[row["run"].text], _aside(row)) for row in cells]
    return Overview(table, alike, told, len(runs) <= _FEW, rows["problem"].dropna().tolist())


_ALWAYS = ("run", "how it ended", "step", "lowest loss", "last loss", "steps")
"""Columns that stay even where all runs have the same."""


_USUAL = {"objective": {"causal"}}
"""Columns that go without saying where all runs have this."""

_ASIDE = ("LR at the lowest loss", "LR at the collapse", "seconds")
"""Columns for which the table has no room: each run's section has them."""


def _aside(row: Mapping[str, Cell]) -> list[tuple[str, str, None]]:
    return [(name, row[name].text, None) for name in _ASIDE if row[name].text != "–"]


def _told(name: str, run: Run, aside: Sequence[tuple[str, str, None]]) -> Told:
    try:
        what, end, *found = findings(run)
    except GradlabError as error:
        return Told(name, ending(run), end_sentence(run), [("damaged", str(error), None), *aside])
    rest = [(finding.what, finding.sentence, _finding_table(finding)) for finding in [what, *found]]
    return Told(name, ending(run), end.sentence, [*rest, *aside])


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


def _cells(row: Mapping[Any, Any], run: Run) -> dict[str, Cell]:
    """The columns of a run."""
    broke = run.verdict is not None and run.verdict.broke
    class_ = "broke" if broke else "done" if run.completed else None
    return {
        "run": Cell(row["run"], class_="name"),
        "how it ended": Cell(ending(run), class_=class_),
        "step": number(_whole(row["step"]), "d"),
        "LR there": number(row["lr"], ".3g"),
        "first overflow": _word(row["first_overflow"]),
        "architecture": _word(row["arch"]),
        "size": _word(row["size"]),
        "seed": number(_whole(row["seed"]), "d"),
        "objective": _word(row["objective"]),
        "precision": _word(row["precision"]),
        "LR at the lowest loss": number(row["lr_min_loss"], ".3g"),
        "LR at the collapse": number(row["lr_collapse"], ".3g"),
        "lowest loss": number(row["lowest_loss"]),
        "last loss": number(row["loss"]),
        "lowest val. loss": number(row["val_loss"]),
        "steps": number(_whole(row["steps"]), "d"),
        "skipped": number(_whole(row["skipped"]), "d"),
        "seconds": number(row["seconds"], ".0f"),
    }


def _word(value: Any) -> Cell:
    return Cell(value) if isinstance(value, str) else Cell("–")


def _whole(value: Any) -> int | None:
    return None if pd.isna(value) else int(value)
