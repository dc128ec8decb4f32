"""How near the attention scores came to FP16's limit."""

from typing import Any

import numpy as np
import pandas as pd

from gradlab.analyses.finding import Finding, bits, counted, figure, passed
from gradlab.analyses.headroom import NEAR_BITS, not_finite
from gradlab.fp16 import FP16_MAX


def score_findings(
    scores: pd.DataFrame, headroom: pd.DataFrame | None = None, *, top: int
) -> list[Finding]:
    """The heads with the largest scores.

    What is exact, or a lower bound, ranks before an upper bound, which says no more than that the
    score was not larger.

    Args:
        scores: The run's `scores` table.
        headroom: Its `headroom`, or None: says what was not finite before they were.
        top: Rows of the table.
    """
    if scores.empty:
        return []
    found = []
    # +inf poisons the softmax, −inf does not; an upper bound may be infinite where no score is.
    poisoned = (scores["max"] == np.inf) | (scores["max"].isna() & scores["max_abs"].isna())
    lost = scores[poisoned & (scores["bound"] != "upper")]
    if len(lost):
        site, step = lost["site"].iloc[0], int(lost["step"].iloc[0])
        start = "First"
        if headroom is not None and (cause := _before(headroom, site, step)) is not None:
            start = f"Only after {passed(cause)}: first"
        found.append(
            Finding(
                "scores not finite",
                f"{start} at {site}, step {step}; at "
                f"{counted(lost['step'].nunique(), 'step')} in all.",
            )
        )
    table = largest_scores(scores)
    if table.empty:
        return found
    first = table.iloc[0]
    head = "" if pd.isna(first["head"]) else f" head {first['head']},"
    known = {"exact": "", "lower": "at least ", "upper": "at most "}[first["bound"]]
    left = first["headroom_bits"]
    if left < 0:
        where = f"{bits(-left)} bits past FP16's limit"
    elif left < NEAR_BITS:
        where = f"near FP16's limit: {bits(left)} bits left"
    else:
        where = f"{bits(left)} bits under FP16's limit"
    sentence = (
        f"Largest at {first['site']},{head} step {first['step']}: |score| "
        f"{known}{figure(first['size'])}, {where}"
    )
    upper = scores.loc[scores["bound"] == "upper", "max_abs"]
    if first["bound"] == "lower" and len(upper):
        sentence += f"; by the upper bounds no score was over {figure(upper.max())}"
    columns = ["site", "head", "step", "max", "max_abs", "bound", "headroom_bits"]
    is_fact = left >= NEAR_BITS or first["bound"] == "upper"
    return [*found, Finding("attention scores", f"{sentence}.", table.head(top)[columns], is_fact)]


def _before(headroom: pd.DataFrame, site: str, step: int) -> "pd.Series[Any] | None":
    """The row of `headroom` where it began that scores were not finite, if elsewhere.

    That is the first that was not finite since all of a step was. What is inside the scores' module
    may come after them and does not count; at their own step nor does anything else if they have
    no row there, as it is not known which came first.
    """
    rows = headroom[headroom["step"] <= step].reset_index(drop=True)
    lost = rows[not_finite(rows)]
    whole = rows.loc[~rows["step"].isin(lost["step"]), "step"]
    lost = lost[lost["step"] > (whole.max() if len(whole) else -1)]
    if lost.empty:
        return None
    first = lost.iloc[0]
    if first["step"] == step:
        here = (rows["step"] == step) & (rows["site"] == site) & (rows["direction"] == "forward")
        inside = first["site"].startswith(f"{site}.")
        if inside or not here.any() or here.idxmax() <= lost.index[0]:
            return None
    return first


def largest_scores(scores: pd.DataFrame) -> pd.DataFrame:
    """Each head's largest finite score: the rows of `scores` where it was, the largest first.

    Heads of which only an upper bound is known come after the others.

    Returns:
        The columns of `scores` and size (max_abs, or |max| where that was not recorded) and
        headroom_bits, log2(65504 / size).
    """
    size = scores["max_abs"].fillna(scores["max"].abs())
    rows = scores.assign(size=size, upper=scores["bound"] == "upper")[np.isfinite(size)]
    rows = rows.sort_values(["upper", "size"], ascending=[True, False], kind="stable")
    rows = rows.drop_duplicates(["site", "head"])
    with np.errstate(divide="ignore"):
        left = np.log2(FP16_MAX / rows["size"].to_numpy(np.float64))
    found: pd.DataFrame = rows.assign(headroom_bits=left).drop(columns="upper")
    return found.reset_index(drop=True)
