"""Losses and their differences as text, for the studies that compare them."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


def runs_text(row: Mapping[Any, Any], planned: int) -> str:
    """How many of a row's runs are behind it, and what became of the others."""
    text = str(planned) if row["runs"] == planned else f"{row['runs']} of {planned}"
    notes = [f"{row[name]} {name}" for name in ("broke", "failed", "interrupted") if row[name]]
    return f"{text} ({', '.join(notes)})" if notes else text


def spread_text(row: Mapping[Any, Any], name: str) -> str:
    """Mean and range over seeds."""
    mean, low, high = (row[name + end] for end in ("", "_min", "_max"))
    if math.isnan(mean):
        return "–"
    text = f"{mean:.3f}"
    return text if row["runs"] == 1 else f"{text} ({low:.3f} to {high:.3f})"


def difference_text(row: Mapping[Any, Any]) -> str:
    """A difference and its interval."""
    if not row["pairs"]:
        return "–"
    text = signed(row["difference"])
    if row["pairs"] > 1:
        text += f" ({signed(row['low'])} to {signed(row['high'])})"
    return text if row["pairs"] == row["seeds"] else f"{text}, {row['pairs']} of {row['seeds']}"


def difference_groups(rows: "pd.DataFrame", name: str) -> str:
    """Which rows of a table of differences are worse, better, and not distinguished, by name."""
    told = rows[rows["distinguished"]]
    groups = {
        "worse": told[told["difference"] > 0],
        "better": told[told["difference"] < 0],
        "not distinguished": rows[~rows["distinguished"]],
    }
    parts = (f"{word}: {', '.join(group[name])}" for word, group in groups.items() if len(group))
    return "; ".join(parts)


def signed(nats: float) -> str:
    """A difference in nats."""
    return f"{nats:+.3f}".replace("-", "−")


def ratio_text(ratio: float) -> str:
    """The time of a row's step, as a multiple of the baseline's."""
    return f"{ratio:.3f} ×"
