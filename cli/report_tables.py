"""What a group of runs says, in sentences and tables of a report."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gradlab.cli.html import Cell, Markup, number, table
from gradlab.cli.report_groups import Group

if TYPE_CHECKING:
    import pandas as pd

_RATES = {
    "lr": "LR at the break",
    "lr_min_loss": "LR at the lowest loss",
    "lr_collapse": "LR at the collapse",
}

OP = "fc2"
"""The op whose gradients are compared, as in the paper's figure 3."""


def group_sentences(group: Group) -> list[str]:
    """How the group's architectures differ, a sentence a pair."""
    from gradlab.analyses.gradient_study import mismatch_differences, study_mismatch
    from gradlab.cli import gradient_report, report

    said = []
    if group.stability is not None:
        said += report.difference_sentences(group.stability)
    for gradients in group.gradients.values():
        if OP in set(gradients["op"]):
            differences = mismatch_differences(study_mismatch(gradients))
            said += gradient_report.difference_sentences(differences, op=OP)
    return said


def group_tables(group: Group) -> list[Markup]:
    """The group's tables."""
    made = []
    if group.stability is not None:
        made += [_breaks(group.stability), _overflows(group.stability)]
    made += [_mismatch(name, gradients) for name, gradients in group.gradients.items()]
    return made


def _breaks(stability: "pd.DataFrame") -> Markup:
    """Medians and ranges of the three learning rates."""
    from gradlab.analyses.stability import summarise_stability
    from gradlab.cli.report import runs_text, spread_text

    rows = [
        [
            Cell(row["arch"]),
            Cell(row["size"]),
            number(row["params"], ","),
            number(row["lr_step"], "g"),
            Cell(runs_text(row), float(row["runs"])),
            *(Cell(spread_text(row, value), row[f"{value}_median"], "number") for value in _RATES),
        ]
        for row in summarise_stability(stability).to_dict("records")
    ]
    headings = ["architecture", "size", "parameters", "LR rise a step", "runs", *_RATES.values()]
    return table(
        headings, rows, caption="Learning rates: median and range over seeds; ≥ is a lower bound."
    )


def _overflows(stability: "pd.DataFrame") -> Markup:
    """Where the breaks began."""
    from gradlab.analyses.stability import first_overflow_sites

    rows = [
        [
            Cell(row["site"]),
            Cell(row["arch"]),
            Cell(row["size"]),
            number(row["lr_step"], "g"),
            number(row["runs"], "d"),
            number(row["share"], ".0%"),
        ]
        for row in first_overflow_sites(stability).to_dict("records")
    ]
    headings = ["site", "architecture", "size", "LR rise a step", "runs", "share of the breaks"]
    return table(headings, rows, caption="The first tensor to overflow at the break.")


def _mismatch(name: str, gradients: "pd.DataFrame") -> Markup:
    """How unequal early and late layers are, for every op."""
    from gradlab.analyses.gradient_study import study_mismatch, summarise_mismatch
    from gradlab.cli.gradient_report import spread_text

    def cell(row: Mapping[Any, Any], value: str) -> Cell:
        return Cell(spread_text(row, value), row[value] if row["runs"] else math.nan, "number")

    rows = [
        [
            Cell(row["arch"]),
            Cell(row["op"]),
            Cell(row["window"]),
            number(row["runs"], "d"),
            cell(row, "ratio"),
            cell(row, "slope"),
        ]
        for row in summarise_mismatch(study_mismatch(gradients)).to_dict("records")
    ]
    headings = ["architecture", "op", "window", "runs", "first / last layers", "slope over depth"]
    return table(
        headings, rows, caption=f"Gradients of early and late layers, {name}: mean and range."
    )
