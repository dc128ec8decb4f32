"""How a report's runs ended: a table of all, and of a few everything that happened in each."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gradlab.cli.html import Cell, Markup, element, joined, note_box, number, table
from gradlab.errors import GradlabError
from gradlab.runs.reader import Run

if TYPE_CHECKING:
    import pandas as pd


def runs_section(runs: Mapping[str, Run]) -> Markup:
    """How each run ended: a sentence each where they are few, and a table."""
    from gradlab.analyses.overview import overview

    rows = overview(runs)
    parts = [note_box("Tables that cannot be read", rows["problem"].dropna().tolist())]
    if len(runs) <= _FEW:
        parts += [_what_happened(name, run) for name, run in runs.items()]
    parts.append(
        table(
            _RUN_HEADINGS,
            (_run_cells(row, runs[row["run"]]) for row in rows.to_dict("records")),
            caption="How each run ended. A heading sorts the table.",
        )
    )
    return joined(parts)


_FEW = 3
"""Runs of which each is told at length."""


def _what_happened(name: str, run: Run) -> Markup:
    """A run's end, and the sentences of `gradlab inspect`."""
    from gradlab.analyses.findings import findings
    from gradlab.analyses.overview import verdict_sentence

    parts = [element("h3", name), element("p", verdict_sentence(run), class_="said")]
    try:
        for finding in findings(run)[1:]:
            inside = [finding.sentence]
            if finding.table is not None:
                inside.append(_finding_table(finding.what, finding.table))
            parts += [element("dt", finding.what), element("dd", *inside)]
    except GradlabError as error:
        parts += [element("dt", "damaged"), element("dd", str(error))]
    return joined([*parts[:2], element("dl", *parts[2:])])


def _finding_table(what: str, rows: "pd.DataFrame") -> Markup:
    from gradlab.cli.inspect_run import HEADINGS, cell_text

    cells = [
        [
            Cell(cell_text(name, value))
            if isinstance(value, str)
            else Cell(cell_text(name, value), float("nan") if value is None else value, "number")
            for name, value in zip(rows.columns, row, strict=True)
        ]
        for row in rows.astype(object).where(rows.notna(), None).itertuples(index=False)
    ]
    return table(
        [HEADINGS.get(name, name) for name in rows.columns], cells, caption=what, shown=False
    )


_RUN_HEADINGS = (
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


def _run_cells(row: Mapping[Any, Any], run: Run) -> list[Cell]:
    from gradlab.analyses.overview import REASONS

    ending = "being written, or killed" if run.status == "running" else run.status
    class_ = None
    if run.verdict is not None:
        ending = REASONS[run.verdict.reason]
        class_ = "broke" if run.verdict.broke else "done" if run.verdict.censored else None
    return [
        Cell(row["run"], class_="name"),
        Cell(ending, class_=class_),
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
    import pandas as pd

    return None if pd.isna(value) else int(value)
