"""A stability study's result in words."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from gradlab.analyses.ending import CAUSES
from gradlab.analyses.stability import (
    first_overflow_sites,
    paired_differences,
    summarise_stability,
)
from gradlab.analyses.wording import counts, noted, share_text, spread_text


def runs_text(row: Mapping[Any, Any]) -> str:
    """How many runs there are, and how many of them did not break."""
    total = row["runs"] + row["failed"] + row["interrupted"]
    return noted(str(total), counts(row, ("censored", "failed", "interrupted")))


def rate_text(row: Mapping[Any, Any], value: str) -> str:
    """Median and range, with ≥ where a figure is only a lower bound."""
    count = row[f"{value}_runs"]
    if not count:
        return "–"
    ends = ("median", "low", "high")
    middle, low, high = (
        _bounded(row[f"{value}_{end}"], row[f"{value}_{end}_bound"]) for end in ends
    )
    text = middle if low == middle == high else spread_text(middle, low, high)
    return text if count == row["runs"] else f"{text}, {share_text(count, row['runs'])}"


def _bounded(figure: float, bound: bool) -> str:
    return f"≥{figure:.3g}" if bound else f"{figure:.3g}"


def cause_text(sites: pd.DataFrame) -> str:
    """The commonest site of the first overflow, and its share of the breaks."""
    if sites.empty:
        return "–"
    first = sites.iloc[0]
    return f"{site_text(first.to_dict())} ({first['runs']} of {sites['runs'].sum()})"


def site_text(row: Mapping[Any, Any]) -> str:
    """A site of `first_overflow_sites`; where no tensor overflowed, why the runs count as breaks.

    >>> site_text({"site": "none", "reason": "loss_rise"})
    'none: the loss rose for good'
    """
    return f"{row['site']}: {CAUSES[row['reason']]}" if row["reason"] else str(row["site"])


def break_sentences(table: pd.DataFrame) -> list[str]:
    """What broke, a sentence an architecture, size and ramp."""
    sites = first_overflow_sites(table)
    sentences = []
    for row in summarise_stability(table).to_dict("records"):
        alike = (sites[name] == row[name] for name in ("size", "arch", "lr_step"))
        cause = cause_text(sites[np.logical_and.reduce(list(alike))])
        sentences.append(
            f"{row['arch']} at {row['size']}, LR rising by {row['lr_step']:g} a step: LR at the "
            f"break {rate_text(row, 'lr')}, runs {runs_text(row)}, first overflow {cause}."
        )
    return sentences


def difference_sentences(table: pd.DataFrame) -> list[str]:
    """The paired differences of the LR at the break, a sentence each."""
    found = paired_differences(table)
    several = len(found[["size", "lr_step"]].drop_duplicates()) > 1
    sentences = []
    for row in found.to_dict("records"):
        where = f"{row['size']}, {row['lr_step']:g} a step: " if several else ""
        sentences.append(where + difference_sentence(row))
    return sentences


def difference_sentence(row: Mapping[Any, Any]) -> str:
    """One row of `paired_differences` in words."""
    arch, baseline, pairs = row["arch"], row["baseline"], row["pairs"]
    left = counts(row, ("censored", "missing"))
    outside = f"; pairs left out: {', '.join(left)}" if left else ""
    if not pairs:
        return f"{arch} and {baseline} cannot be compared: no seed broke under both{outside}."
    percent = 100 * (row["ratio"] - 1)
    much = f"{_rounded(abs(percent))} % {'lower' if percent < 0 else 'higher'}"
    if pairs == 1:
        return (
            f"{arch} broke {much} than {baseline} on the one seed of both: not distinguished"
            f"{outside}."
        )
    low, high = (_signed(100 * (row[end] - 1)) for end in ("low", "high"))
    interval = f"95 % interval {low} to {high} %, {pairs} seeds{outside}"
    if row["distinguished"]:
        return f"{arch} breaks {much} than {baseline} ({interval})."
    return (
        f"{arch} is not distinguished from {baseline}: its break is {much} on average ({interval})."
    )


def _rounded(percent: float) -> str:
    return f"{percent:.0f}" if abs(percent) >= 9.95 else f"{percent:.1f}"


def _signed(percent: float) -> str:
    sign = "−" if percent < 0 else "+"
    return sign + _rounded(abs(percent))
