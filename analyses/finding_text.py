"""A finding's table as text: headings and cells."""

from typing import Any

import pandas as pd

from gradlab.analyses.finding import bits, figure

HEADINGS = {
    "at_end": "at the end",
    "at_last": "at the last",
    "change_bits": "change",
    "early_bits": "early",
    "early_ratio": "first / last early",
    "eps_frac": "below ε",
    "flipped": "flipped",
    "grew": "× start",
    "headroom_bits": "bits left",
    "late_bits": "late",
    "late_ratio": "late",
    "least_bits": "least bits",
    "loss_scale": "loss scale",
    "lr": "LR",
    "max_abs": "max |x|",
    "median_ratio": "median",
    "nonfinite": "not finite",
    "numel": "entries",
    "param": "parameter",
    "producer": "first overflow",
    "ratio": "largest",
}
"""Headings of the columns whose names would not do."""

_SHARES = {"share", "eps_frac", "at_end"}
_COURSE = {"step", "lr", "loss", "loss_scale"}


def heading(column: str) -> str:
    """What stands above a column."""
    return HEADINGS.get(column, column)


def cell_text(column: str, value: Any) -> str:
    """A cell as text: shares in percent, headroom to a tenth of a bit, – where nothing is known."""
    if isinstance(value, str):
        return value
    if pd.isna(value):
        return "–"
    if column in _SHARES:
        return f"{figure(100 * value)} %"
    return bits(value) if "bits" in column else figure(value)


def course_text(column: str, value: float) -> str:
    """A cell of the course of some sites' headroom, whose columns are the sites."""
    return figure(value) if column in _COURSE else bits(value)
