"""Where the FP16 range was tightest, layer by layer, on the way through a run."""

import math

import pandas as pd

from gradlab.errors import GradlabError

NEAR_BITS = 2.0
"""What is this near to FP16's limit is worth a warning: it may double in a few steps."""


def that_can_overflow(headroom: pd.DataFrame) -> pd.DataFrame:
    """The rows of FP16 tensors; all rows of a run that has none.

    In an FP16 run the wider tensors (norms, the residual stream) may pass FP16's range unharmed.
    In a run without FP16, the headroom of every tensor says whether it would fit.
    """
    narrow = headroom["dtype"] == "float16"
    return headroom[narrow] if narrow.any() else headroom


def not_finite(headroom: pd.DataFrame) -> "pd.Series[bool]":
    """Which rows are of tensors that had inf or NaN, whatever their dtype."""
    counted = headroom["nonfinite"].fillna(0) > 0  # not counted: on a GPU, at most looks
    return (headroom["headroom_bits"] == -math.inf) | counted.astype(bool)


def tightest_by_layer(
    headroom: pd.DataFrame, steps: pd.DataFrame, *, direction: str | None = "forward"
) -> pd.DataFrame:
    """The site with the least headroom of each layer at each recorded step, with its LR.

    Only tensors that can overflow count (`that_can_overflow`). Backward sites are left out by
    default: their tensors carry the loss scale, which dynamic scaling drives towards the top of
    the range whatever the model does.

    Args:
        headroom: A run's `headroom` table.
        steps: Its `steps` table.
        direction: `forward`, `backward`, or None for both.

    Returns:
        One row per (step, layer), sorted by both: columns step, lr, layer (missing for sites
        outside the blocks, which come last), site, op, direction, max_abs, headroom_bits (−inf
        where the site was not finite). Sites that are equally tight: the first in the table's
        order, so that of the places that an overflow reached it is the earliest. Rows without a
        figure (NaN) are left out.

    Raises:
        GradlabError: Where a step of `headroom` is not in `steps`.
    """
    rows = headroom if direction is None else headroom[headroom["direction"] == direction]
    rows = that_can_overflow(rows)
    rows = rows[rows["headroom_bits"].notna()].reset_index(drop=True)
    rows = rows.assign(layer=rows["layer"].astype("Int64"))
    # A stable sort by headroom, then the first of each group: unlike idxmin, −inf is no trouble.
    tightest = rows.sort_values("headroom_bits", kind="stable").drop_duplicates(["step", "layer"])
    tightest = tightest.sort_values(["step", "layer"], na_position="last")
    joined = tightest.merge(steps[["step", "lr"]], on="step", how="left", validate="many_to_one")
    missing = joined.loc[~joined["step"].isin(steps["step"]), "step"]  # a step may have no lr
    if len(missing):
        step = missing.iloc[0]
        raise GradlabError(f"the headroom table has step {step}, which the steps table lacks.")
    columns = ["step", "lr", "layer", "site", "op", "direction", "max_abs", "headroom_bits"]
    return joined[columns].reset_index(drop=True)


def gradient_overflows(overflows: pd.DataFrame, steps: pd.DataFrame) -> pd.DataFrame:
    """The steps at which a gradient overflowed, with their LR: columns step, lr.

    Args:
        overflows: A run's `overflows` table.
        steps: Its `steps`.
    """
    backward = overflows.loc[overflows["direction"] == "backward", "step"]
    return steps.loc[steps["step"].isin(backward), ["step", "lr"]]
