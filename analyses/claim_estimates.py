"""The numbers that the paper's claims are judged by: each a pure function of a study's table.

Runs of one seed see the same batches, so architectures are compared seed by seed. An estimate is a
mean over seeds with Student's t interval at 95 %; of ratios the mean is geometric and the interval
taken on logarithms. Layers count as early or late as in the mismatch of gradients: the first and
the last two (one of each in models of two or three).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from gradlab.analyses.ablation import ablation_differences
from gradlab.analyses.compute import compute_saved, summarise_saved
from gradlab.analyses.intervals import exp, geometric_interval, mean_interval
from gradlab.analyses.stability import baseline_first, paired_differences

End = Literal["early", "late"]


@dataclass(frozen=True)
class Estimate:
    """A number with its interval.

    Attributes:
        number: The mean; NaN where no seed has it.
        low: The interval's ends; NaN for fewer than two seeds.
        high: See low.
        seeds: Seeds, or pairs of runs with one seed, behind it.
    """

    number: float
    low: float
    high: float
    seeds: int


def plain(values: Iterable[float]) -> Estimate:
    """Mean and interval; values that are not finite are left out."""
    finite = [float(value) for value in values if math.isfinite(value)]
    return Estimate(*mean_interval(finite), len(finite))


def geometric(ratios: Iterable[float]) -> Estimate:
    """Geometric mean and interval on logarithms; ratios that are 0 or not finite are left out."""
    known = [float(ratio) for ratio in ratios if 0 < ratio < math.inf]
    return Estimate(*geometric_interval(known), len(known))


def gradient_mismatch(mismatch: pd.DataFrame, arch: str, op: str) -> Estimate:
    """How many times as large the op's gradients are in the first layers as in the last.

    Args:
        mismatch: A table of `gradlab.analyses.gradient_study.study_mismatch`; its late window.
        arch: The architecture.
        op: The op.
    """
    return geometric(_ratios(mismatch, arch, op))


def remaining_mismatch(mismatch: pd.DataFrame, arch: str, baseline: str, op: str) -> Estimate:
    """How many times as unequal an architecture's gradients are as the baseline's.

    How unequal is the ratio of first and last layers or its inverse, whichever is above 1: an
    architecture that overshoots to the other side has closed nothing.

    Args:
        mismatch: As `gradient_mismatch`.
        arch: The architecture.
        baseline: The one to compare with.
        op: The op.
    """
    mine, theirs = (_ratios(mismatch, name, op) for name in (arch, baseline))
    unequal = {
        seed: (max(mine[seed], 1 / mine[seed]), max(theirs[seed], 1 / theirs[seed]))
        for seed in mine.index.intersection(theirs.index)
    }
    return geometric(one / other for one, other in unequal.values())


def _ratios(mismatch: pd.DataFrame, arch: str, op: str) -> "pd.Series[float]":
    """By seed, late in training; those with a logarithm."""
    late = mismatch[mismatch["window"] == "late"]
    here = late[(late["arch"] == arch) & (late["op"] == op)]
    ratios = here.set_index("seed")["ratio"].astype("float64")
    return ratios[(ratios > 0) & np.isfinite(ratios)]


def relative_gradient(
    relative: pd.DataFrame, arch: str, ops: Sequence[str], end: End | None = None
) -> Estimate:
    """How many times as large some weights' gradients are as the baseline's: figure 7, in one mean.

    Args:
        relative: A table of `gradlab.analyses.relative_gradients.relative_gradients`; its late
            window.
        arch: The architecture.
        ops: The weights: of each seed, the geometric mean over them and the layers.
        end: The first layers, the last, or all.
    """
    rows = _relative(relative, arch, ops)
    if end is not None and len(rows):
        n_layers = int(rows["n_layers"].iloc[0])
        ends = min(2, n_layers // 2)
        rows = rows[rows["layer"] < ends if end == "early" else rows["layer"] >= n_layers - ends]
    return geometric(np.exp(rows.groupby("seed")["log"].mean()))


def largest_relative_gradient(relative: pd.DataFrame, arch: str, ops: Sequence[str]) -> Estimate:
    """`relative_gradient` of the layer in which it is largest: what holds of it holds of all."""
    rows = _relative(relative, arch, ops)
    return _largest([geometric(np.exp(seeds)) for seeds in _by_layer(rows, "log")])


def _relative(relative: pd.DataFrame, arch: str, ops: Sequence[str]) -> pd.DataFrame:
    rows = relative[
        (relative["arch"] == arch) & (relative["window"] == "late") & relative["op"].isin(list(ops))
    ]
    return rows.assign(log=np.log(rows["ratio"].astype("float64")))


def scale_slope(entries: pd.DataFrame, arch: str, op: str) -> Estimate:
    """Change of a learned scale over the whole depth: the slope of its layer means.

    Args:
        entries: Entries of learned scales at one step: columns arch, seed, op, layer, value.
        arch: The architecture.
        op: The scale.
    """
    means = _entries(entries, arch, op).groupby(["seed", "layer"])["value"].mean()
    return plain(
        _slope(layers.index.get_level_values("layer"), layers) for _, layers in _seeds(means)
    )


def scale_mean(entries: pd.DataFrame, arch: str, op: str) -> Estimate:
    """Mean of a learned scale over its layers; arguments as `scale_slope`."""
    layers = _entries(entries, arch, op).groupby(["seed", "layer"])["value"].mean()
    return plain(layers.groupby("seed").mean())


def largest_scale_mean(entries: pd.DataFrame, arch: str, op: str) -> Estimate:
    """Mean of a learned scale in the layer where it is largest; arguments as `scale_slope`."""
    return _largest([plain(seeds) for seeds in _by_layer(_entries(entries, arch, op), "value")])


def scale_correlation(entries: pd.DataFrame, arch: str, op: str) -> Estimate:
    """Pearson's correlation of a learned scale's entries with the layer that they are in.

    A seed whose entries are all alike has none. Arguments as `scale_slope`.
    """
    return plain(
        of_seed["layer"].astype("float64").corr(of_seed["value"])
        for _, of_seed in _entries(entries, arch, op).groupby("seed")
        if of_seed["layer"].nunique() > 1 and of_seed["value"].nunique() > 1
    )


def _entries(entries: pd.DataFrame, arch: str, op: str) -> pd.DataFrame:
    return entries[(entries["arch"] == arch) & (entries["op"] == op)]


def _seeds(means: "pd.Series[float]") -> "Iterable[tuple[object, pd.Series[float]]]":
    return means.groupby("seed")


def _slope(layers: "pd.Index[int]", values: "pd.Series[float]") -> float:
    """Least squares against depth, 0 in the first layer and 1 in the last."""
    depth = layers.to_numpy(np.float64)
    if len(depth) < 2:
        return math.nan
    return float(np.polyfit(depth / depth.max(), values.to_numpy(np.float64), 1)[0])


def _by_layer(rows: pd.DataFrame, column: str) -> "list[pd.Series[float]]":
    """Each layer's means, a value a seed."""
    means = rows.groupby(["layer", "seed"])[column].mean()
    return [seeds for _, seeds in means.groupby("layer")]


def _largest(layers: Sequence[Estimate]) -> Estimate:
    finite = [layer for layer in layers if math.isfinite(layer.number)]
    return max(finite, key=lambda layer: layer.number, default=plain([]))


def break_ratio(stability: pd.DataFrame, arch: str, baseline: str) -> Estimate:
    """How many times as high a learning rate an architecture reaches before it breaks.

    Args:
        stability: A stability table of one size and ramp. Pairs with a censored run are left out.
        arch: The architecture.
        baseline: The one to compare with.
    """
    rows = paired_differences(baseline_first(stability, baseline))
    rows = rows[(rows["arch"] == arch) & (rows["baseline"] == baseline)]
    return _from_row(rows, "ratio", "pairs")


def perplexity_ratio(losses: pd.DataFrame, arch: str, reference: str) -> Estimate:
    """How many times as high an architecture's final validation perplexity is.

    Args:
        losses: A table of `gradlab.analyses.final_losses.final_losses`.
        arch: The architecture.
        reference: All operations, or the baseline (`gradlab.analyses.ablation`).
    """
    rows = ablation_differences(losses)
    rows = rows[(rows["arch"] == arch) & (rows["reference"] == reference)]
    found = _from_row(rows, "difference", "pairs")
    number, low, high = (exp(end) for end in (found.number, found.low, found.high))
    return Estimate(number, low, high, found.seeds)


def share_saved(curves: pd.DataFrame, arch: str, baseline: str) -> Estimate:
    """Share of the baseline's time that an architecture saves on the way to the baseline's best.

    Where a seed never comes as low, no share is known and there is no number: the others would
    speak for the lucky seeds alone. `seeds` are those that came as low.

    Args:
        curves: A table of `gradlab.analyses.compute.perplexity_curves`, whose seconds count.
        arch: The architecture.
        baseline: The one to compare with.
    """
    if baseline not in set(curves["arch"]):
        return plain([])
    saved = compute_saved(curves, baseline=baseline, compute="seconds")
    rows = summarise_saved(saved[saved["arch"] == arch])
    if len(rows) and rows["reached"].iloc[0] < rows["pairs"].iloc[0]:
        return Estimate(math.nan, math.nan, math.nan, int(rows["reached"].iloc[0]))
    return _from_row(rows, "saved", "reached")


def _from_row(rows: pd.DataFrame, number: str, seeds: str) -> Estimate:
    """Of the one row of a table of differences; nothing where there is none."""
    if rows.empty:
        return plain([])
    row = rows.iloc[0]
    return Estimate(float(row[number]), float(row["low"]), float(row["high"]), int(row[seeds]))
