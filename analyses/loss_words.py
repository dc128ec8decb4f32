"""Losses and their differences in words, for the studies that compare them."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from gradlab.analyses.wording import counts, noted, number_text, share_text, spread_text
from gradlab.models.presets import ALL_OPERATIONS, BASELINE, TABLE_4


def runs_text(row: Mapping[Any, Any], planned: int) -> str:
    """How many of a row's runs are behind it, and what became of the others."""
    notes = counts(row, ("broke", "failed", "interrupted"))
    return noted(share_text(row["runs"], planned), notes)


def difference_text(row: Mapping[Any, Any]) -> str:
    """A difference and its interval."""
    if not row["pairs"]:
        return "–"
    difference, low, high = (
        number_text(row[name], "+.3f") for name in ("difference", "low", "high")
    )
    text = difference if row["pairs"] == 1 else spread_text(difference, low, high)
    if row["pairs"] == row["seeds"]:
        return text
    return f"{text}, {share_text(row['pairs'], row['seeds'])}"


def ablation_sentences(differences: pd.DataFrame) -> list[str]:
    """Which rows are worse and better than all operations, and which are not distinguished.

    Where a study is without all operations, than the baseline.

    Args:
        differences: A table of `gradlab.analyses.ablation.ablation_differences`.
    """
    for reference in (ALL_OPERATIONS, BASELINE):
        here = differences[differences["reference"] == reference]
        if len(here):
            return [f"Against {TABLE_4[reference]} {_PAIRS}, {_groups(here, 'row')}."]
    return []


def variant_sentences(differences: pd.DataFrame) -> list[str]:
    """Under which variants each architecture is worse or better than the baseline.

    Args:
        differences: A table of `gradlab.analyses.variants.variant_differences`.
    """
    return [
        f"{arch} against {reference} {_PAIRS}, {_groups(rows, 'variant')}."
        for (reference, arch), rows in differences.groupby(["reference", "arch"], sort=False)
    ]


_PAIRS = "(95 % intervals over pairs of runs with one seed)"


def _groups(rows: pd.DataFrame, name: str) -> str:
    """Which rows of a table of differences are worse, better, and not distinguished, by name."""
    told = rows[rows["distinguished"]]
    groups = {
        "worse": told[told["difference"] > 0],
        "better": told[told["difference"] < 0],
        "not distinguished": rows[~rows["distinguished"]],
    }
    parts = (f"{word}: {', '.join(group[name])}" for word, group in groups.items() if len(group))
    return "; ".join(parts)
