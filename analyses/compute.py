"""Validation perplexity against training compute, and what a run saves: figure 2 of the paper."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from gradlab.analyses.comparable import check_comparable, name_of, run_key
from gradlab.analyses.intervals import geometric_interval
from gradlab.analyses.validations import planned_validations
from gradlab.errors import GradlabError, unknown
from gradlab.models.cost import flops_per_token
from gradlab.runs.reader import Run

COMPUTE = ("flops", "seconds", "tokens")
"""What compute can be counted in.

`flops`: tokens times `gradlab.models.cost.flops_per_token`, which is the same on every machine but
leaves out norms, and with them what NormFormer adds. `seconds`: since the run began, validation
and probes included, as the paper's GPU days: fair where the runs had the machine to themselves.
`tokens`: trained on.
"""

FREE = ("schedules",)
"""What the runs may differ in: at equal compute, the cheaper architecture takes more steps, and
each may have the learning rate that suits it."""

_RUN = ["size", "arch", "seed"]
_CURVE = [*_RUN, "step", "tokens", "flops", "seconds", "val_loss", "perplexity", "objective"]


def perplexity_curves(runs: Sequence[Run]) -> pd.DataFrame:
    """Every validation of every run, with the compute spent until then.

    Args:
        runs: Runs of one setting with validations, by architecture and seed. They may differ in
            the schedule and the steps (`FREE`).

    Returns:
        One row per validation, runs in the order given: columns size, arch, seed, step, tokens,
        flops, seconds, val_loss (nats a token), perplexity (its exponential, a token), objective
        (of masked models both are of the tokens that a mask hides). Validations
        that are not finite are rows: a run that broke says so.

    Raises:
        GradlabError: The runs do not compare, or one has no validation.
    """
    check_comparable(runs, free=FREE)
    curves = []
    for run in runs:
        steps = run.table("steps", ["step", "tokens", "seconds", "val_loss"])
        steps = steps[planned_validations(run, steps)]
        if steps.empty:
            raise GradlabError(f"{name_of(run)} has no validation: train it with --val-every.")
        size, arch, seed = run_key(run)
        flops = steps["tokens"].astype("float64") * flops_per_token(run.config.model)
        perplexity = _perplexity(steps["val_loss"])
        curves.append(
            steps.assign(
                size=size,
                arch=arch,
                seed=seed,
                flops=flops,
                perplexity=perplexity,
                objective=run.config.model.objective,
            )
        )
    return pd.concat(curves, ignore_index=True)[_CURVE]


def mean_curves(curves: pd.DataFrame) -> pd.DataFrame:
    """The curve of each architecture over its seeds.

    Args:
        curves: A table of `perplexity_curves`.

    Returns:
        One row per (size, arch, step), in the table's order: columns size, arch, step, tokens,
        flops, seconds (the mean), runs (with a finite validation there), perplexity (geometric
        mean: that of the mean loss), low, high (range over seeds). Where no run has one, NaN.
    """
    key = ["size", "arch", "step"]
    rows = []
    for group, seeds in curves.groupby(key, sort=False):
        finite = seeds[np.isfinite(seeds["val_loss"])]
        row = dict(zip(key, group, strict=True))
        row |= {name: seeds[name].mean() for name in ("tokens", "flops", "seconds")}
        row |= {"runs": len(finite), "perplexity": _geometric_mean(finite["perplexity"])}
        low, high = finite["perplexity"].min(), finite["perplexity"].max()
        rows.append({**row, "low": low, "high": high})
    return pd.DataFrame(rows)


def _geometric_mean(values: "pd.Series[float]") -> float:
    return float(np.exp(np.log(values).mean()))


def _perplexity(loss: "pd.Series[float]") -> "pd.Series[float]":
    with np.errstate(over="ignore"):  # past 709 nats it is inf
        return loss.map(np.exp)


def reach(curve: pd.DataFrame, baseline: pd.DataFrame, *, compute: str = "flops") -> dict[str, Any]:
    """Where one curve first is as low as another's lowest point.

    No validation is imagined between two: what is saved is known to within the steps between them.

    Args:
        curve: Rows with a `COMPUTE` and perplexity, in order.
        baseline: The same.
        compute: One of `COMPUTE`.

    Returns:
        `best`, the baseline's lowest perplexity; `needed`, the compute at which the baseline first
        has it; `at`, the compute at which the curve first is as low (NaN if it never is);
        `reached`, its perplexity there; `saved`, 1 − at / needed: negative where it took more.
    """
    if compute not in COMPUTE:
        raise GradlabError(unknown("compute", compute, COMPUTE))
    found = {"best": math.nan, "needed": math.nan, "at": math.nan, "reached": math.nan}
    theirs = baseline[np.isfinite(baseline["perplexity"])]
    if len(theirs):
        lowest = theirs.loc[theirs["perplexity"].idxmin()]
        found |= {"best": float(lowest["perplexity"]), "needed": float(lowest[compute])}
        as_low = curve[curve["perplexity"] <= lowest["perplexity"]]
        if len(as_low):
            first = as_low.iloc[0]
            found |= {"at": float(first[compute]), "reached": float(first["perplexity"])}
    return {**found, "saved": 1 - found["at"] / found["needed"]}


def compute_saved(curves: pd.DataFrame, *, baseline: str, compute: str = "flops") -> pd.DataFrame:
    """What each run saved of the compute that the baseline of its seed took to its best.

    Args:
        curves: A table of `perplexity_curves`.
        baseline: The architecture to compare with.
        compute: One of `COMPUTE`.

    Returns:
        One row per run of another architecture whose seed the baseline has too: columns size,
        baseline, arch, seed, and those of `reach`.

    Raises:
        GradlabError: There is no such baseline.
    """
    architectures = list(pd.unique(curves["arch"]))
    if baseline not in architectures:
        raise GradlabError(unknown("baseline", baseline, architectures))
    of_run = dict(list(curves.groupby(_RUN, sort=False)))
    rows = [
        {"size": size, "baseline": baseline, "arch": arch, "seed": seed}
        | reach(curve, of_run[size, baseline, seed], compute=compute)
        for (size, arch, seed), curve in of_run.items()
        if arch != baseline and (size, baseline, seed) in of_run
    ]
    columns = ["size", "baseline", "arch", "seed", "best", "needed", "at", "reached", "saved"]
    return pd.DataFrame(rows, columns=columns)


def summarise_saved(saved: pd.DataFrame) -> pd.DataFrame:
    """The share of compute that each architecture saved, over its seeds.

    A seed that never came as low as the baseline is left out of the share and counted: the share
    speaks for the others.

    Args:
        saved: A table of `compute_saved`.

    Returns:
        One row per (size, baseline, arch): these columns, pairs (seeds of both), reached (those
        that came as low), saved (1 − the geometric mean of at / needed), low, high (Student's t
        interval on logarithms; NaN for fewer than two), distinguished (False where it includes 0,
        or a seed is left out).
    """
    shares = summarise_shares(saved.assign(share=saved["at"] / saved["needed"]))
    ends = {"saved": 1 - shares["share"], "low": 1 - shares["high"], "high": 1 - shares["low"]}
    columns = ["size", "baseline", "arch", "pairs", "reached", "saved", "low", "high"]
    shares = shares.rename(columns={"seeds": "pairs"}).assign(**ends)
    return shares[[*columns, "distinguished"]]


def summarise_shares(found: pd.DataFrame) -> pd.DataFrame:
    """The share of what the baseline took that each architecture takes, over its seeds.

    A seed that never comes as low is in no mean, and is counted.

    Args:
        found: Columns size, baseline, arch, share (NaN where the seed never comes as low), as of
            `gradlab.analyses.steps_to.steps_to_final`.

    Returns:
        One row per (size, baseline, arch): these columns, seeds, reached (those that came as low),
        share (geometric mean), low, high (Student's t interval on logarithms; NaN for fewer than
        two), distinguished (whether the interval leaves out 1 and no seed is left out).
    """
    key = ["size", "baseline", "arch"]
    rows = []
    for group, seeds in found.groupby(key, sort=False):
        shares = seeds["share"].dropna()
        taken = geometric_interval(shares)
        apart = len(shares) == len(seeds) and taken.leaves_out(1)
        rows.append([*group, len(seeds), len(shares), *taken, apart])
    columns = [*key, "seeds", "reached", "share", "low", "high", "distinguished"]
    return pd.DataFrame(rows, columns=columns)
