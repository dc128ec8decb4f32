"""What a learning rate search says in words."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from gradlab.analyses import wording
from gradlab.analyses.wording import mean_text, number_text, share_text, spread_text

NOTE = (
    "Nats a token, mean and range over seeds; a diverged run enters with its loss at "
    "initialisation."
)
"""What the losses of the table are."""

_WHAT = {"loss": "loss at its best learning rate", "sensitivity": "LR sensitivity"}


def rate_text(row: Mapping[Any, Any], planned: int) -> str:
    """The loss at one rate, how many of the runs are behind it, and how many diverged."""
    notes = [] if row["runs"] == planned else [share_text(row["runs"], planned)]
    notes += [f"{row['diverged']} diverged"] if row["diverged"] else []
    return ", ".join([mean_text(row, "loss", row["runs"], form=".3f"), *notes])


def best_text(row: Mapping[Any, Any]) -> str:
    """The best rate, and the range of the seeds' own where they differ."""
    if not row["seeds"]:
        return "–"
    best, low, high = (f"{row[name]:g}" for name in ("best_lr", "own_lr_min", "own_lr_max"))
    return best if low == high else spread_text(best, low, high)


def search_sentences(summary: pd.DataFrame, differences: pd.DataFrame) -> list[str]:
    """How the architectures differ, and whose best rate may lie beyond those that were tried.

    Args:
        summary: A table of `gradlab.analyses.lr_search.summarise_search`.
        differences: A table of `search_differences`.
    """
    return [difference_sentence(row) for row in differences.to_dict("records")] + [
        f"{row['arch']}'s best learning rate is the {row['at_end']} that was tried: a better one "
        "may lie beyond it (--lr)."
        for row in summary[summary["at_end"] != ""].to_dict("records")
    ]


def difference_sentence(row: Mapping[Any, Any]) -> str:
    """One row of `search_differences` in words."""
    what = _WHAT[row["quantity"]]
    return wording.difference_sentence(
        {**row, **{end: number_text(row[end], "+.3f") for end in ("low", "high")}},
        f"{row['arch']}'s {what}",
        f"{row['baseline']}'s",
        f"{abs(row['difference']):.3f} nats {'lower' if row['difference'] < 0 else 'higher'}",
        than=" than",
        one="",
        seldom="no seed has ended at every rate under both",
    )
