"""The table of a study of constant learning rates."""

import pandas as pd

from gradlab.analyses.limits import limit_text
from gradlab.analyses.wording import counts, noted
from gradlab.pages.table import Cell, Table, numeric

_BOUNDS = {"low": ("none", "above", "unfinished"), "ramp": ("ramp_bound", "at_zero")}
_WORDS = {
    "none": "none",
    "above": "at the highest",
    "unfinished": "not done",
    "ramp_bound": "without a break",
    "at_zero": "at the first step",
}


def limit_table(summary: pd.DataFrame) -> Table:
    """Both answers of each architecture.

    Args:
        summary: A table of `gradlab.analyses.limits.summarise_limits`.
    """
    rows = []
    for row in summary.to_dict("records"):
        named = {_WORDS[name]: row[name] for name in _WORDS}
        cells = [Cell(str(row["arch"])), numeric(str(row["seeds"]), row["seeds"])]
        for name, bounds in _BOUNDS.items():
            notes = counts(named, [_WORDS[bound] for bound in bounds])
            cells.append(numeric(noted(limit_text(row, name), notes), row[name]))
        rows.append(cells)
    headings = ["architecture", "seeds", "highest constant LR", "ramp's LR at the break"]
    return Table(headings, rows, "Geometric means over seeds, 95 % intervals", whole=headings[:1])
