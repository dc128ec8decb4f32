"""What a stability study says: medians and ranges, causes, and differences between architectures.

Every function takes the study's table (`read_stability`) and gives a tidy table.
"""

from collections import Counter
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from gradlab.analyses.intervals import geometric_interval
from gradlab.analyses.stability_table import QUANTITIES, check_stability, observations
from gradlab.runs.verdict import BREAKS

NO_OVERFLOW = "none"
"""Stands for the site of a break in which no tensor left the FP16 range."""

_GROUP = ["size", "params", "lr_step", "arch"]


def summarise_stability(table: pd.DataFrame) -> pd.DataFrame:
    """Median and range of the three learning rates, per size, ramp and architecture.

    Censored runs (stopped by the cap on steps, not by a break) enter with what they reached, which
    is a lower bound (see `observations`). The median or the end of a range is then marked as a
    bound where it could change: where putting infinity in the bounds' place changes it.

    Returns:
        One row per (size, params, lr_step, arch), in the order of the study, with counts `runs`
        (that ended in a break or the cap), `broke`, `censored`, `failed` and `interrupted` (both
        left out of everything else), and for each `q` of lr, lr_min_loss, lr_collapse: `q_runs`
        (that have one), `q_low`, `q_median`, `q_high` and for each of these `_bound` (true
        where the figure is only a lower bound). Figures of nothing are NaN.
    """
    table = check_stability(table)
    found = {
        value: dict(list(observations(table, value).groupby(_GROUP, sort=False)))
        for value in QUANTITIES
    }
    rows = []
    for key, runs in table.groupby(_GROUP, sort=False):
        broke, censored = runs["reason"].isin(BREAKS).sum(), runs["censored"].sum()
        row: dict[str, Any] = dict(zip(_GROUP, key, strict=True))
        row |= {"runs": int(broke + censored), "broke": int(broke), "censored": int(censored)}
        row["failed"] = int((runs["reason"] == "error").sum())
        row["interrupted"] = int((runs["reason"] == "interrupted").sum())
        for value, groups in found.items():
            spread = _spread(groups.get(key))
            row |= {f"{value}_{name}": figure for name, figure in spread.items()}
        rows.append(row)
    return pd.DataFrame(rows, columns=_summary_columns())


def _summary_columns() -> list[str]:
    counts = ["runs", "broke", "censored", "failed", "interrupted"]
    figures = [f"{value}_{name}" for value in QUANTITIES for name in _spread(None)]
    return _GROUP + counts + figures


def _spread(seen: pd.DataFrame | None) -> dict[str, Any]:
    """Median and range of one quantity, and which of them are only lower bounds."""
    if seen is None:
        nothing = {"runs": 0, **dict.fromkeys(["median", "low", "high"], float("nan"))}
        return {**nothing, "low_bound": False, "median_bound": False, "high_bound": False}
    values = seen["value"].to_numpy(np.float64)
    risen = np.where(seen["bound"], np.inf, values)
    median = float(np.median(values))
    return {
        "runs": len(values),
        "median": median,
        "low": float(values.min()),
        "high": float(values.max()),
        "low_bound": bool(risen.min() != values.min()),
        "median_bound": bool(np.median(risen) != median),
        "high_bound": bool(risen.max() != values.max()),
    }


def first_overflow_sites(table: pd.DataFrame) -> pd.DataFrame:
    """Where the breaks began, as a distribution over the runs that broke.

    Returns:
        Columns size, lr_step, arch, site, runs, share (of the runs that broke), reason, the
        commonest site of an architecture first; breaks without an overflow have site `none`, and
        they alone the reason for which they count as breaks.
    """
    table = check_stability(table)
    broke = table[table["reason"].isin(BREAKS)]
    broke = broke.assign(
        site=broke["first_overflow"].fillna(NO_OVERFLOW),
        reason=broke["reason"].where(broke["first_overflow"].isna(), ""),
    )
    rows = []
    for key, runs in broke.groupby(["size", "lr_step", "arch"], sort=False):
        counts = Counter(zip(runs["site"], runs["reason"], strict=True))
        ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
        rows += [(*key, site, n, n / len(runs), reason) for (site, reason), n in ordered]
    columns = ["size", "lr_step", "arch", "site", "runs", "share", "reason"]
    return pd.DataFrame(rows, columns=columns)


def paired_differences(table: pd.DataFrame, value: str = "lr") -> pd.DataFrame:
    """How much higher each architecture's LR is than another's, over the seeds they share.

    A pair is one seed run under both architectures at the same size and ramp: the same data in the
    same order and equal weights at the start, so that what a seed does to both cancels. The
    difference is the logarithm of the ratio of the two LRs, with Student's t interval over pairs:
    breaks span a decade between widths while their spread within a group is a share of the break,
    so that ratios are comparable across sizes where differences are not, and the interval reads as
    "x % higher". With two or three pairs the interval rests on the ratios being near log-normal.
    The intervals are each at 95 % on its own: among many comparisons some will miss.

    A pair with a censored run in it is left out and counted, as only one side of its ratio is
    known; when one architecture often outlives the cap, the interval speaks for the seeds that
    did not, and a higher cap is the remedy. A pair in which a run failed, is missing or has an LR
    of zero is left out and counted too.

    Args:
        table: A stability table.
        value: One of `QUANTITIES`.

    Returns:
        One row per (size, lr_step) and couple of architectures, `baseline` the one that comes
        first in the table: columns size, lr_step, baseline, arch, seeds (of either), pairs,
        censored and missing (pairs left out), ratio (geometric mean of arch / baseline), low,
        high, distinguished (False where the interval includes 1 or there are fewer than 2 pairs).
    """
    table = check_stability(table)
    seen = observations(table, value).set_index(["size", "lr_step", "arch", "seed"])
    rows = []
    for (size, lr_step), group in table.groupby(["size", "lr_step"], sort=False):
        for baseline, arch in combinations(pd.unique(group["arch"]), 2):
            both = group[group["arch"].isin([baseline, arch])]
            seeds = sorted(int(seed) for seed in both["seed"].unique())
            pairs = [
                (
                    _look(seen, (size, lr_step, baseline, seed)),
                    _look(seen, (size, lr_step, arch, seed)),
                )
                for seed in seeds
            ]
            row = {"size": size, "lr_step": lr_step, "baseline": baseline, "arch": arch}
            rows.append({**row, "seeds": len(seeds), **_compare(pairs)})
    return pd.DataFrame(rows, columns=_DIFFERENCE_COLUMNS)


def baseline_first(table: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """The rows with the baseline's before the others', as `paired_differences` takes them."""
    others = table.assign(other=table["arch"] != baseline)
    return others.sort_values("other", kind="stable").drop(columns="other")


_DIFFERENCE_COLUMNS = [
    *["size", "lr_step", "baseline", "arch", "seeds", "pairs", "censored", "missing"],
    *["ratio", "low", "high", "distinguished"],
]


def _look(seen: pd.DataFrame, key: tuple[Any, ...]) -> tuple[float, bool] | None:
    """A run's LR and whether it is a bound; None where the run has none above zero."""
    if key not in seen.index:
        return None
    value, bound = seen.loc[key, "value"], seen.loc[key, "bound"]
    return (float(value), bool(bound)) if value > 0 else None


def _compare(
    pairs: list[tuple[tuple[float, bool] | None, tuple[float, bool] | None]],
) -> dict[str, Any]:
    """Ratio with its interval over pairs of (baseline, arch), each a value and its bound mark."""
    whole = [(first, second) for first, second in pairs if first and second]
    exact = [(first[0], second[0]) for first, second in whole if not (first[1] or second[1])]
    found = geometric_interval(second / first for first, second in exact)
    return {
        "pairs": len(exact),
        "censored": len(whole) - len(exact),
        "missing": len(pairs) - len(whole),
        "ratio": found.mean,
        "low": found.low,
        "high": found.high,
        "distinguished": found.leaves_out(1),
    }
