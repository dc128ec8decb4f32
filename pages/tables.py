"""What a group of runs says, in sentences and tables of a page."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from gradlab.analyses import gradient_words, stability_words
from gradlab.analyses.gradient_study import (
    mismatch_differences,
    study_mismatch,
    summarise_mismatch,
)
from gradlab.analyses.stability import first_overflow_sites, summarise_stability
from gradlab.analyses.wording import mean_text
from gradlab.figures.kinds import GRADIENT_OP
from gradlab.pages.groups import Group
from gradlab.pages.table import Cell, Table, number

_RATES = {
    "lr": "LR at the break",
    "lr_min_loss": "LR at the lowest loss",
    "lr_collapse": "LR at the collapse",
}


def group_sentences(group: Group) -> list[str]:
    """How the group's architectures differ, a sentence a pair."""
    said = []
    if group.stability is not None:
        said += stability_words.difference_sentences(group.stability)
    for gradients in group.gradients.values():
        if GRADIENT_OP in set(gradients["op"]):
            differences = mismatch_differences(study_mismatch(gradients))
            said += gradient_words.difference_sentences(differences, op=GRADIENT_OP)
    return said


def group_tables(group: Group, *, told: bool) -> list[Table]:
    """The group's tables.

    Args:
        group: The group.
        told: Its study has said already at which learning rates its runs broke.
    """
    made = []
    if group.stability is not None:
        made += [] if told else [_breaks(group.stability)]
        made.append(_overflows(group.stability))
    return made + [_mismatch(name, gradients) for name, gradients in group.gradients.items()]


def _breaks(stability: pd.DataFrame) -> Table:
    """Medians and ranges of the three learning rates."""
    rows = [
        [
            Cell(row["arch"]),
            Cell(row["size"]),
            number(row["params"], ","),
            number(row["lr_step"], "g"),
            Cell(stability_words.runs_text(row), float(row["runs"])),
            *(
                Cell(stability_words.rate_text(row, value), row[f"{value}_median"], "number")
                for value in _RATES
            ),
        ]
        for row in summarise_stability(stability).to_dict("records")
    ]
    headings = ["architecture", "size", "parameters", "LR rise a step", "runs", *_RATES.values()]
    return Table(headings, rows, "Learning rates: median and range over seeds; ≥ is a lower bound.")


def _overflows(stability: pd.DataFrame) -> Table:
    """Where the breaks began."""
    rows = [
        [
            Cell(stability_words.site_text(row)),
            Cell(row["arch"]),
            Cell(row["size"]),
            number(row["lr_step"], "g"),
            number(row["runs"], "d"),
            number(row["share"], ".0%"),
        ]
        for row in first_overflow_sites(stability).to_dict("records")
    ]
    headings = ["site", "architecture", "size", "LR rise a step", "runs", "share of the breaks"]
    return Table(headings, rows, "The first tensor to overflow at the break.")


def _mismatch(name: str, gradients: pd.DataFrame) -> Table:
    """How unequal early and late layers are, for every op."""

    def cell(row: Mapping[Any, Any], value: str) -> Cell:
        order = row[value] if row["runs"] else math.nan
        return Cell(mean_text(row, value, row["runs"]), order, "number")

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
    return Table(headings, rows, f"Gradients of early and late layers, {name}: mean and range.")
