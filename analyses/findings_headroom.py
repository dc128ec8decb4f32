"""Where a run came nearest to FP16's limit, and how that changed on the way."""

import numpy as np
import pandas as pd

from gradlab.analyses.finding import Finding, bits, during, figure, place
from gradlab.analyses.headroom import NEAR_BITS, that_can_overflow

TREND_SHARE = 0.1
"""Share of the recorded steps that is averaged at either end to see a trend."""


def headroom_findings(headroom: pd.DataFrame, *, top: int) -> list[Finding]:
    """The `top` outputs with the least headroom, and the tightest gradient.

    Only tensors that can overflow count, and of each direction only steps at which none had
    overflowed so far: what comes after an overflow in a step is often its doing. Gradients stand
    apart, as a loss scale drives them towards the limit whatever the model does.
    """
    rows = that_can_overflow(headroom)
    rows = rows[rows["headroom_bits"].notna()]
    if rows.empty:
        return []
    over = rows[rows["headroom_bits"] == -np.inf]
    forward, backward = (rows[rows["direction"] == name] for name in ("forward", "backward"))
    forward = forward[~forward["step"].isin(over.loc[over["direction"] == "forward", "step"])]
    backward = backward[~backward["step"].isin(over["step"]) & (backward["max_abs"] != 0)]
    narrow = bool((rows["dtype"] == "float16").any())
    found = []
    if len(forward):
        found.append(_outputs(least_headroom(forward), forward["step"], top, narrow=narrow))
    if len(backward):
        least = least_headroom(backward).iloc[0]
        where = place(least["site"], "backward")
        sentence = f"Least at {where}: {bits(least['least_bits'])} bits at step {least['step']}"
        if narrow:
            sentence += ", with the loss scale in it"
        found.append(Finding("gradient headroom", f"{sentence}.", is_fact=True))
    return found or [Finding("least headroom", "At every recorded step something was not finite.")]


def least_headroom(headroom: pd.DataFrame) -> pd.DataFrame:
    """Each site's least headroom, when that was, and its mean early and late in the run.

    Args:
        headroom: Rows of one direction of a run's `headroom` table.

    Returns:
        A row a site, the tightest first (of equals the first in execution order): columns site,
        dtype, least_bits, step, max_abs (both there), early_bits and late_bits (means over the
        first and last tenth of the steps in the table; NaN without a finite row there),
        change_bits (late − early; NaN where there is no more than one step).
    """
    columns = ["site", "dtype", "least_bits", "step", "max_abs"]
    if headroom.empty:
        return pd.DataFrame(columns=[*columns, "early_bits", "late_bits", "change_bits"])
    ordered = headroom.sort_values("headroom_bits", kind="stable").drop_duplicates("site")
    found = ordered.rename(columns={"headroom_bits": "least_bits"})[columns]
    first, last = early_and_late(headroom["step"])
    for name, (start, end) in {"early_bits": first, "late_bits": last}.items():
        rows = headroom[headroom["step"].between(start, end)]
        rows = rows[np.isfinite(rows["headroom_bits"])]
        found[name] = found["site"].map(rows.groupby("site")["headroom_bits"].mean())
    change = found["late_bits"] - found["early_bits"]
    found["change_bits"] = change if first != last else np.nan
    return found.reset_index(drop=True)


def early_and_late(steps: "pd.Series[int]") -> tuple[tuple[int, int], tuple[int, int]]:
    """First and last recorded step of the two windows of a trend: a tenth of all at either end."""
    first, last = int(steps.min()), int(steps.max())
    tenth = int((last - first) * TREND_SHARE)
    until, since = steps[steps <= first + tenth].max(), steps[steps >= last - tenth].min()
    return (first, int(until)), (int(since), last)


def _outputs(tightest: pd.DataFrame, steps: "pd.Series[int]", top: int, *, narrow: bool) -> Finding:
    least = tightest.iloc[0]
    left = f"{bits(least['least_bits'])} bits left"
    if least["least_bits"] < 0:
        left = f"{bits(-least['least_bits'])} bits past FP16's limit"
    sentence = (
        f"{least['site']}: {left} at step {least['step']} (max |x| {figure(least['max_abs'])})"
    )
    if not narrow:
        sentence += ", if it were FP16, which no tensor here is"
    early, late = early_and_late(steps)
    change = least["change_bits"]
    if pd.notna(change) and bits(abs(change)) != bits(0):
        verb = "lost" if change < 0 else "gained"
        sentence += (
            f"; it {verb} {bits(abs(change))} bits on average from {during(*early)} to "
            f"{during(*late)}"
        )
    table = tightest.head(top)
    if table["dtype"].nunique() == 1:
        table = table.drop(columns="dtype")
    is_near = narrow and least["least_bits"] < NEAR_BITS
    return Finding("least headroom", f"{sentence}.", table, is_fact=not is_near)
