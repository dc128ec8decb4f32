"""Where a run came nearest to FP16's limit, and how that changed on the way."""

import numpy as np
import pandas as pd

from gradlab.analyses.finding import Finding, bits, during, figure, place
from gradlab.analyses.headroom import that_can_overflow

TREND_SHARE = 0.1
"""Share of the recorded steps that is averaged at either end to see a trend."""


def headroom_findings(headroom: pd.DataFrame, *, top: int) -> list[Finding]:
    """The `top` outputs with the least headroom, and the tightest gradient.

    Only tensors that can overflow count, and only steps at which none of them had: what comes
    after an overflow in the same step is often its doing. Gradients stand apart, as a loss scale
    drives them towards the limit whatever the model does.
    """
    rows = that_can_overflow(headroom)
    rows = rows[rows["headroom_bits"].notna()]
    narrow = (rows["dtype"] == "float16").any()
    whole = rows[~rows["step"].isin(rows.loc[rows["headroom_bits"] == -np.inf, "step"])]
    if whole.empty:
        return [Finding("least headroom", "At every recorded step something overflowed.")] * bool(
            len(rows)
        )
    found = []
    tightest = least_headroom(whole[whole["direction"] == "forward"])
    if len(tightest):
        found.append(_outputs(tightest.head(top), whole["step"], narrow=bool(narrow)))
    gradients = least_headroom(whole[whole["direction"] == "backward"])
    if len(gradients):
        least = gradients.iloc[0]
        found.append(
            Finding(
                "gradient headroom",
                f"Least at {place(least['site'], 'backward')}: {bits(least['least_bits'])} bits "
                f"at step {least['step']}, multiplied by the loss scale as it was.",
            )
        )
    return found


def least_headroom(headroom: pd.DataFrame) -> pd.DataFrame:
    """Each site's least headroom, when that was, and its mean early and late in the run.

    Args:
        headroom: Rows of one direction of a run's `headroom` table.

    Returns:
        A row a site, the tightest first (of equals the first in execution order): columns site,
        dtype, least_bits, step, max_abs (both there), early_bits and late_bits (means over the
        first and last tenth of the steps in the table; NaN without a finite row there),
        bits_per_100 (their difference over the steps between the two windows' middles; NaN where
        there is no more than one step).
    """
    columns = ["site", "dtype", "least_bits", "step", "max_abs"]
    if headroom.empty:
        return pd.DataFrame(columns=[*columns, "early_bits", "late_bits", "bits_per_100"])
    ordered = headroom.sort_values("headroom_bits", kind="stable").drop_duplicates("site")
    found = ordered.rename(columns={"headroom_bits": "least_bits"})[columns]
    first, last = early_and_late(headroom["step"])
    for name, (start, end) in {"early_bits": first, "late_bits": last}.items():
        rows = headroom[headroom["step"].between(start, end)]
        rows = rows[np.isfinite(rows["headroom_bits"])]
        found[name] = found["site"].map(rows.groupby("site")["headroom_bits"].mean())
    apart = (sum(last) - sum(first)) / 2
    lost = found["late_bits"] - found["early_bits"]
    found["bits_per_100"] = 100 * lost / apart if apart else np.nan
    return found.reset_index(drop=True)


def early_and_late(steps: "pd.Series[int]") -> tuple[tuple[int, int], tuple[int, int]]:
    """First and last step of the two windows of a trend: a tenth of the steps at either end."""
    first, last = int(steps.min()), int(steps.max())
    tenth = int((last - first) * TREND_SHARE)
    return (first, first + tenth), (last - tenth, last)


def _outputs(tightest: pd.DataFrame, steps: "pd.Series[int]", *, narrow: bool) -> Finding:
    least = tightest.iloc[0]
    left = f"{bits(least['least_bits'])} bits left"
    if least["least_bits"] < 0:
        left = f"{bits(-least['least_bits'])} bits past FP16's limit"
    sentence = (
        f"{least['site']}: {left} at step {least['step']} (max |x| {figure(least['max_abs'])})"
    )
    if not narrow:
        sentence += ", would it be FP16; no tensor that was looked at is"
    early, late = early_and_late(steps)
    if pd.notna(least["bits_per_100"]):
        change = least["bits_per_100"]
        verb = "lost" if change < 0 else "gained"
        sentence += (
            f"; it {verb} {bits(abs(change))} bits per 100 steps, from the mean over "
            f"{during(*early)} to that over {during(*late)}"
        )
    table = tightest
    if tightest["dtype"].nunique() == 1:
        table = table.drop(columns="dtype")
    return Finding("least headroom", f"{sentence}.", table)
