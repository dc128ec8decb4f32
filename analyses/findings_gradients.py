"""Which gradients were not finite, and how unequal they were from layer to layer."""

import math

import numpy as np
import pandas as pd

from gradlab.analyses.finding import Finding, counted, during, figure, spans
from gradlab.analyses.gradients import WINDOW_STEPS, Window, mismatch

EXTREME = 1e3
"""A mismatch that is no longer a matter of placement: gradients vanish or explode."""


def nonfinite_gradients(
    steps: pd.DataFrame, grad_norms: pd.DataFrame | None, *, attached: bool, top: int
) -> list[Finding]:
    """At which steps gradients were not finite, and in which parameters first.

    Args:
        steps: The run's `steps` table; its grad_norm is of all gradients.
        grad_norms: Its `grad_norms`, or None.
        attached: Whether it is of a loop that is not gradlab's, which has no grad_norm.
        top: Rows of the table: the parameters with the largest share of such entries.
    """
    bad = set() if attached else set(steps.loc[~np.isfinite(steps["grad_norm"]), "step"])
    rows = grad_norms[grad_norms["nonfinite"] > 0] if grad_norms is not None else None
    if rows is not None:
        bad |= set(rows["step"])
    if not bad:
        return []
    sentence = f"At {counted(len(bad), 'step')}, first at step {min(bad)}: {spans(bad)}"
    if rows is None or rows.empty:
        return [Finding("gradients not finite", f"{sentence}.")]
    assert grad_norms is not None
    first = int(rows["step"].min())
    there = rows[rows["step"] == first].assign(share=rows["nonfinite"] / rows["numel"])
    there = there.sort_values("share", ascending=False, kind="stable")
    of = int((grad_norms["step"] == first).sum())
    sentence += (
        f"; at step {first}, the first at which they were recorded, in {len(there)} of "
        f"{counted(of, 'parameter')}"
    )
    if len(there) == of and there["share"].min() == 1:
        return [Finding("gradients not finite", f"{sentence}, in every entry.")]
    table = there.head(top)[["param", "nonfinite", "numel", "share"]].reset_index(drop=True)
    return [Finding("gradients not finite", f"{sentence}.", table)]


def mismatch_findings(grad_norms: pd.DataFrame, *, top: int) -> list[Finding]:
    """The op whose gradients are most unequal between early and late layers.

    By the mismatch of `gradlab.analyses.gradients` over the first and the last 50 steps between the
    first and the last at which every gradient was finite (of fewer than 100, over each half). Steps
    at which one was not are left out.
    """
    lost = grad_norms.loc[grad_norms["nonfinite"] > 0, "step"]
    finite = grad_norms[~grad_norms["step"].isin(lost)]
    weights = finite[finite["layer"].notna() & ~finite["param"].str.endswith("bias")]
    if weights["layer"].nunique() < 2:
        return []
    early, late = _windows(weights["step"])
    then = mismatch(finite, first=early.first, last=early.last).set_index("op")
    now = mismatch(finite, first=late.first, last=late.last).set_index("op")
    table = now[["slope"]].assign(early_ratio=then["ratio"], late_ratio=now["ratio"])
    table = table[table["late_ratio"].notna()]
    if table.empty:
        return []
    # Zero and infinity, where one end has no gradient, are the most unequal.
    with np.errstate(divide="ignore"):
        distance = np.log(table["late_ratio"].to_numpy(np.float64))
    table = table.iloc[np.argsort(-np.abs(distance), kind="stable")].reset_index()
    worst = table.iloc[0]
    sentence = (
        f"{worst['op']}: {_unequal(worst['late_ratio'])} over {during(late.first, late.last)}"
    )
    if early != late and not math.isnan(worst["early_ratio"]):
        sentence += f"; over {during(early.first, early.last)}, {_unequal(worst['early_ratio'])}"
    if 0 < worst["late_ratio"] <= 1 / EXTREME:
        sentence += "; gradients vanish towards the first layers"
    elif EXTREME <= worst["late_ratio"] < math.inf:
        sentence += "; gradients explode towards the first layers"
    columns = ["op", "early_ratio", "late_ratio", "slope"]
    is_fact = 1 / EXTREME < worst["late_ratio"] < EXTREME
    return [Finding("gradient mismatch", f"{sentence}.", table.head(top)[columns], is_fact)]


def _windows(steps: "pd.Series[int]") -> tuple[Window, Window]:
    first, last = int(steps.min()), int(steps.max())
    length = min(WINDOW_STEPS, (last - first + 1) // 2) or 1
    return Window(first, first + length - 1), Window(last - length + 1, last)


def _unequal(ratio: float) -> str:
    if ratio == 0:
        return "no gradient reached the first layers"
    if math.isinf(ratio):
        return "no gradient reached the last layers"
    if figure(ratio) == "1":
        return "the two ends' gradients are equal"
    larger, smaller = ("first", "last") if ratio > 1 else ("last", "first")
    times = max(ratio, 1 / ratio)
    return f"the {larger} layers' gradient is {figure(times)} times the {smaller} layers'"
