"""Which learned scales went to extremes."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from gradlab.analyses.finding import Finding, counted, figure, listed

FAR = 4.0
"""A scale has gone far when it is past this many times its start, or under that share of it."""


NOTABLE_GROWTH = 1e-4
"""Of a scale's start; less is not said of one scale rather than another."""

_LOOKS = 5
"""At so many a scale must have been the same to be said never to change."""

_MANTISSA = {"float16": 10, "bfloat16": 7}

_TIMES = 1.1
"""From here on growth is told as a factor, below it in per cent."""


def scale_findings(scales: pd.DataFrame, *, top: int) -> list[Finding]:
    """The learned scales that moved furthest from their start, as a factor.

    Args:
        scales: The run's `scales` table.
        top: Rows of the table.
    """
    if scales.empty:
        return []
    found = []
    lost = scales[~np.isfinite(scales["value"])]
    if len(lost):
        found.append(
            Finding(
                "scales not finite",
                f"First in {lost['param'].iloc[0]} at step {lost['step'].iloc[0]}, in "
                f"{counted(lost['param'].nunique(), 'parameter')} in all.",
            )
        )
    moved = scale_moves(scales)
    if moved.empty:
        return found
    furthest = moved.iloc[0]
    distance = moved[["grew", "shrank"]].max(axis=1)
    far = int((distance > FAR).sum())
    flipped = int(moved["flipped"].sum())
    sentence = (
        f"{_growth(furthest)}{_shrinkage(moved)}; {far} of {counted(len(moved), 'learned scale')} "
        f"{'has' if 1 in (far, len(moved)) else 'have'} an entry over "
        f"{figure(FAR)} times its start or under 1/{figure(FAR)} of it, and {flipped} "
        f"{'entry' if flipped == 1 else 'entries'} changed sign"
    )
    furthest_first = distance.sort_values(ascending=False, kind="stable").index
    table = moved.loc[furthest_first].head(top)[
        ["param", "start", "low", "high", "grew", "step", "flipped"]
    ]
    return [*found, Finding("learned scales", f"{sentence}.", table, is_fact=True)]


def lost_updates(
    scales: pd.DataFrame, grad_norms: pd.DataFrame, steps: pd.DataFrame, dtypes: Mapping[str, str]
) -> list[Finding]:
    """Scales of 16 bits that stayed as they were, though the optimizer stepped with a gradient.

    Args:
        scales: The run's `scales`.
        grad_norms: Its `grad_norms`.
        steps: Its `steps`: says which were taken, at what learning rate.
        dtypes: The type of each scale that has 16 bits and is what the optimizer holds.
    """
    scales = scales[np.isfinite(scales["value"])]
    taken = steps.loc[~steps["skipped"] & (steps["lr"] > 0), "step"]
    moved = scales.groupby(["param", "index"])["value"].nunique().groupby("param").max()
    names = []
    for name in moved.index[moved == 1].intersection(list(dtypes)):
        looks = scales.loc[scales["param"] == name, "step"].drop_duplicates()
        between = taken[(taken >= looks.min()) & (taken < looks.max())]
        rows = grad_norms[(grad_norms["param"] == name) & grad_norms["step"].isin(between)]
        if len(looks) >= _LOOKS and (rows["grad_max_abs"] > 0).sum() >= _LOOKS - 1:
            names.append(name)
    if not names:
        return []
    dtype = dtypes[names[0]]
    value = scales.loc[scales["param"] == names[0], "value"].abs().max()
    step = 2.0 ** (math.floor(math.log2(value)) - _MANTISSA[dtype]) if value > 0 else 0.0
    return [
        Finding(
            "updates lost",
            f"{listed(names)} never changed, though the optimizer stepped and there was a "
            f"gradient: at {figure(value)} {dtype} numbers are up to {figure(step)} apart, and "
            "updates under half of that are lost to rounding, unless the optimizer adds them up "
            "in FP32 copies.",
        )
    ]


def _growth(furthest: "pd.Series[Any]") -> str:
    """Which scale grew most, and by how much, from a row of `scale_moves`."""
    most, grew, at = (
        f"{furthest['param']} grew most",
        furthest["grew"],
        f"at step {furthest['step']}",
    )
    from_zero = furthest["start"] == 0
    if grew - (not from_zero) < NOTABLE_GROWTH:
        return f"None grew by {figure(100 * NOTABLE_GROWTH)} % of its start"
    if from_zero:
        return f"{most}, from 0 to {figure(grew)} {at}"
    if grew < _TIMES:
        return f"{most}, by {figure(100 * (grew - 1))} % {at}"
    return f"{most}, to {figure(grew)} times its start {at}"


def _shrinkage(moved: pd.DataFrame) -> str:
    """Which scale shrank most, if it shrank far, of the rows of `scale_moves`."""
    least = moved.sort_values("shrank", ascending=False, kind="stable").iloc[0]
    if not least["shrank"] > FAR:
        return ""
    return f"; {least['param']} shrank most, to {figure(1 / least['shrank'])} of its start"


def scale_moves(scales: pd.DataFrame) -> pd.DataFrame:
    """How far each learned vector's entries went from where they were first recorded.

    Entries that started at 0 are measured against 1. Values that are not finite are left out.

    Returns:
        A row a parameter, the largest growth first: param, start (median of its entries), low and
        high (over entries and steps), grew (largest |value| / |start|), step (of that), shrank
        (largest |start| / |value|; entries that end where they started at 0 do not count), flipped
        (entries that had the other sign at some step).
    """
    rows = scales[np.isfinite(scales["value"])].sort_values("step", kind="stable")
    start = rows.groupby(["param", "index"], sort=False)["value"].transform("first")
    with np.errstate(divide="ignore", invalid="ignore"):
        grew = rows["value"].abs() / start.abs().where(start != 0, 1.0)
        shrank = np.where(start != 0, start.abs() / rows["value"].abs(), 1.0)
    rows = rows.assign(start=start, grew=grew, shrank=shrank, flips=rows["value"] * start < 0)
    # The first of equals, so that a scale that never moved shows its first step.
    furthest = rows.sort_values("grew", ascending=False, kind="stable").drop_duplicates("param")
    groups = rows.groupby("param", sort=False)
    flipped = rows.groupby(["param", "index"])["flips"].any().groupby("param").sum()
    found = pd.DataFrame(
        {
            "start": rows.drop_duplicates(["param", "index"]).groupby("param")["start"].median(),
            "low": groups["value"].min(),
            "high": groups["value"].max(),
            "grew": groups["grew"].max(),
            "shrank": groups["shrank"].max(),
            "flipped": flipped,
            "step": furthest.set_index("param")["step"],
        }
    ).rename_axis("param")
    return found.sort_values("grew", ascending=False, kind="stable").reset_index()
