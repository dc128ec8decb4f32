"""The tables of a league."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from gradlab.analyses import stability_words
from gradlab.analyses.league import MEASURES
from gradlab.analyses.wording import number_text, spread_text
from gradlab.pages.table import Cell, Table, numeric

_TABLES = {
    "What each survives and learns": ("ramp", "limit", "best_lr", "loss", "sensitivity"),
    "What lies behind it": ("mismatch", "headroom", "cost"),
}


def league_tables(summary: pd.DataFrame, sites: pd.DataFrame) -> list[Table]:
    """Two tables, a row an architecture, the highest constant rate first.

    Two, as one would be wider than a terminal.

    Args:
        summary: A table of `gradlab.analyses.league.summarise_league`.
        sites: A table of `gradlab.analyses.league.league_overflows`.
    """
    found = {(row["arch"], row["measure"]): row for row in summary.to_dict("records")}
    made = []
    for caption, measures in _TABLES.items():
        shown = [name for name in measures if (summary["measure"] == name).any()]
        is_last = measures[-1] == "cost"
        rows = []
        for arch in dict.fromkeys(summary["arch"]):
            cells = [Cell(str(arch)), *(_cell(found.get((arch, name))) for name in shown)]
            if is_last:
                cells.append(Cell(stability_words.cause_text(sites[sites["arch"] == arch])))
            rows.append(cells)
        headings = ["architecture", *(MEASURES[name].heading for name in shown)]
        headings += ["first overflow of the ramp"] if is_last else []
        note = _NOTE if is_last else ""
        made.append(Table(headings, rows, caption, note=note, whole=headings[:1]))
    return [table for table in made if len(table.headings) > 1 and table.rows]


_NOTE = (
    "Means over seeds with 95 % intervals; of the cost the quartiles over rounds. Losses and LR "
    "sensitivity in nats a token, headroom in bits, cost over pre-ln's."
)


def _cell(row: Mapping[Any, Any] | None) -> Cell:
    if row is None:
        return numeric("–", float("nan"))
    middle, low, high = (number_text(row[name]) for name in ("value", "low", "high"))
    text = middle if low == "–" else spread_text(middle, low, high)
    return numeric(f"≥{text}" if row["bound"] else text, row["value"])
