"""Gradients relative to a baseline architecture's, by layer and op: figure 7 of the paper."""

import math
from collections.abc import Iterable

import numpy as np
import pandas as pd

from gradlab.analyses.comparable import run_keys
from gradlab.analyses.gradient_study import run_windows
from gradlab.analyses.gradients import WINDOW_STEPS
from gradlab.analyses.intervals import geometric_interval
from gradlab.errors import GradlabError, unknown
from gradlab.runs.reader import Run

_KEY = ["seed", "window", "op", "layer"]


def study_losses(runs: Iterable[Run], *, length: int = WINDOW_STEPS) -> pd.DataFrame:
    """The mean loss of several runs in the windows of `study_gradients`.

    Args:
        runs: Runs that compare; those of gradlab's loop that did not reach their last step are left
            out.
        length: Steps of a window.

    Returns:
        One row per (arch, seed, window): these columns, steps, left_out (steps whose loss is not
        finite, which the mean leaves out), loss (in nats; NaN where no step has one).
    """
    rows = []
    runs = [run for run in runs if run.attached or run.completed]
    windows = run_windows(runs, length) if runs else {}
    for run, (_, arch, seed) in zip(runs, run_keys(runs), strict=True):
        losses = run.table("steps", ["step", "loss"])
        for name, window in windows.items():
            inside = losses["step"].between(window.first, window.last)
            loss = losses.loc[inside, "loss"].to_numpy(np.float64)
            finite = loss[np.isfinite(loss)]
            row = {"arch": arch, "seed": seed, "window": name}
            row |= {"steps": len(loss), "left_out": len(loss) - len(finite)}
            rows.append({**row, "loss": float(finite.mean()) if len(finite) else math.nan})
    return pd.DataFrame(rows, columns=["arch", "seed", "window", "steps", "left_out", "loss"])


def relative_gradients(
    gradients: pd.DataFrame, losses: pd.DataFrame, *, baseline: str
) -> pd.DataFrame:
    """Each weight's gradient over the baseline's, both over their loss, seed by seed.

    A loss that is twice as large has gradients that are twice as large, whatever the layer:
    dividing by it leaves what the architecture does to the layers. The paper normalises "to control
    for different losses" and does not say how; this is how it is done here: for every run,
    the mean L1 norm over the window by the mean loss over the window.

    Args:
        gradients: A table of `gradlab.analyses.gradient_study.study_gradients`.
        losses: The table of `study_losses` of the same runs and windows.
        baseline: The architecture to compare with.

    Returns:
        One row per (arch, seed, window, op, layer) of the other architectures whose op the
        baseline has in that layer, for the seeds that both have: columns baseline, arch, seed,
        window, first, last, n_layers, op, layer, left_out (rows of either run with non-finite
        entries, which the means leave out), relative and relative_baseline (mean grad_l1 / mean
        loss), ratio (their quotient; NaN where either is missing or 0).

    Raises:
        GradlabError: There is no such baseline, no other architecture, or no seed of both.
    """
    architectures = list(pd.unique(gradients["arch"]))
    if baseline not in architectures:
        raise GradlabError(unknown("baseline", baseline, architectures))
    if len(architectures) == 1:
        raise GradlabError(f"{baseline} has no other architecture to be compared with.")
    known = gradients.merge(
        losses[["arch", "seed", "window", "loss"]], on=["arch", "seed", "window"], how="left"
    )
    known["relative"] = known["grad_l1"] / known["loss"]
    mine = known["arch"] != baseline
    theirs = known.loc[~mine, [*_KEY, "relative", "left_out"]]
    both = known[mine].merge(theirs, on=_KEY, suffixes=("", "_baseline"))
    if both.empty:
        raise GradlabError(f"no seed was run with both {baseline} and another architecture.")
    whole = (both["relative"] > 0) & (both["relative_baseline"] > 0)
    both["ratio"] = (both["relative"] / both["relative_baseline"]).where(whole)
    both["left_out"] += both["left_out_baseline"]
    columns = ["arch", "seed", "window", "first", "last", "n_layers", "op", "layer", "left_out"]
    both = both[[*columns, "relative", "relative_baseline", "ratio"]]
    both.insert(0, "baseline", baseline)
    return both


def summarise_relative(relative: pd.DataFrame) -> pd.DataFrame:
    """The ratios of each architecture over its seeds.

    Args:
        relative: A table of `relative_gradients`.

    Returns:
        One row per (arch, window, op, layer), in the table's order: columns baseline, arch,
        window, first, last, n_layers, op, layer, pairs (seeds with a ratio), left_out (rows of all
        runs), ratio (geometric mean), low, high (Student's t interval on logarithms; NaN for one
        pair), min, max (over seeds), distinguished (False where the interval includes 1 or there
        are fewer than 2 pairs).
    """
    key = ["baseline", "arch", "window", "first", "last", "n_layers", "op", "layer"]
    rows = []
    for group, seeds in relative.groupby(key, sort=False):
        ratios = seeds["ratio"].dropna()
        found = geometric_interval(ratios)
        row = dict(zip(key, group, strict=True))
        row |= {"pairs": len(ratios), "left_out": int(seeds["left_out"].sum())}
        row |= {"ratio": found.mean, "low": found.low, "high": found.high}
        row |= {"min": ratios.min(), "max": ratios.max()}
        rows.append({**row, "distinguished": found.leaves_out(1)})
    return pd.DataFrame(rows)
