"""What the learned scales have become, layer by layer: figures 4 and 6 of the NormFormer paper."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from gradlab.analyses.comparable import check_comparable, name_of, run_keys
from gradlab.analyses.intervals import mean_interval
from gradlab.errors import GradlabError
from gradlab.runs.reader import Run

FIGURE_OPS = ("ffn_mid_norm", "attn_out_norm", "head_scale")
"""The ops of figure 4: γ of the FFN LN, γ of the post-attention LN, the head scales."""


def figure_ops(runs: Sequence[Run]) -> tuple[str, ...]:
    """The ops of figure 4 in some runs: the paper's, or else every other scale than λ_resid."""
    ops: dict[str, None] = {}
    for run in runs:
        scales = run.table("scales", ["op", "layer"])
        ops |= dict.fromkeys(scales.loc[scales["layer"].notna(), "op"].unique())
    own = tuple(op for op in FIGURE_OPS if op in ops)
    return own or tuple(op for op in ops if op != LAMBDA) or FIGURE_OPS


LAMBDA = "lambda_resid"
"""The op of figure 6."""

QUANTILES = {"low": 0.0, "q05": 0.05, "q25": 0.25, "median": 0.5, "q75": 0.75, "q95": 0.95}
QUANTILES |= {"high": 1.0}
"""Columns of a distribution and the shares of the entries that lie below each."""

FREE = ("sizes", "batches", "schedules")
"""What runs may differ in whose λ_resid is drawn against depth: models of several sizes have
learning rates and batches of their own."""

_RUN = ["size", "arch", "seed"]
_ENTRY_COLUMNS = [*_RUN, "n_layers", "op", "param", "layer", "step", "index", "value"]
_LAYER_COLUMNS = ["op", "param", "layer", "step", "entries", "left_out", "mean", *QUANTILES]


def scales_by_layer(
    scales: pd.DataFrame, *, step: int | None = None, ops: Sequence[str] | None = None
) -> pd.DataFrame:
    """How the entries of each learned scale are distributed at a step.

    The table has what `LearnedScales` finds: the weights of norms (γ, not their biases), head
    scales and λ_resid. Scales outside the blocks are left out, and so are entries that are not
    finite, which are counted.

    Args:
        scales: A run's `scales` table.
        step: A recorded step; the last one if None.
        ops: The ops to look at; all if None.

    Returns:
        One row per parameter of a layer, in the table's order: columns op, param, layer, step,
        entries (finite ones), left_out, mean, and the `QUANTILES` low, q05, q25, median, q75, q95,
        high (linear between entries). Figures of nothing are NaN.

    Raises:
        GradlabError: The table is empty, or has no such step, or none of the ops in a layer.
    """
    if scales.empty:
        raise GradlabError("the table scales has no rows.")
    steps = scales["step"].unique()
    if step is None:
        step = int(steps.max())
    if step not in steps:
        near = int(steps[np.abs(steps - step).argmin()])
        raise GradlabError(
            f"the learned scales were not recorded at step {step}: the nearest is {near}."
        )
    rows = scales[(scales["step"] == step) & scales["layer"].notna()]
    if ops is not None:
        rows = rows[rows["op"].isin(list(ops))]
    if rows.empty:
        raise GradlabError(f"no layer has a learned {' or '.join(ops or ['scale'])}.")
    key = ["op", "param", "layer"]
    found = [
        {**dict(zip(key, group, strict=True)), "step": step, **_distribution(entries)}
        for group, entries in rows.groupby(key, sort=False)["value"]
    ]
    return pd.DataFrame(found, columns=_LAYER_COLUMNS).astype({"layer": "int64"})


def _distribution(entries: "pd.Series[float]") -> dict[str, float]:
    values = entries.to_numpy(np.float64)
    finite = values[np.isfinite(values)]
    counts = {"entries": len(finite), "left_out": len(values) - len(finite)}
    if not len(finite):
        return {**counts, **dict.fromkeys(["mean", *QUANTILES], float("nan"))}
    quantiles = np.quantile(finite, list(QUANTILES.values())).tolist()
    return {**counts, "mean": float(finite.mean()), **dict(zip(QUANTILES, quantiles, strict=True))}


def scale_distributions(
    runs: Sequence[Run], *, step: int | None = None, ops: Sequence[str] = FIGURE_OPS
) -> pd.DataFrame:
    """`scales_by_layer` of several runs at one step.

    Args:
        runs: Runs of one setting that recorded `scales`, by architecture and seed.
        step: A step that all of them recorded; the last such if None.
        ops: The ops to look at. A run that has none of them is not in the result.

    Returns:
        One row per run and parameter: columns size, arch, seed, n_layers, and those of
        `scales_by_layer`.

    Raises:
        GradlabError: The runs do not compare, one did not record its scales, they have no such
            step in common, or none of them has such an op.
    """
    check_comparable(runs)
    return _of_runs(runs, step, ops)


def scale_entries(
    runs: Sequence[Run], *, step: int | None = None, ops: Sequence[str] = FIGURE_OPS
) -> pd.DataFrame:
    """The entries themselves of which `scale_distributions` has the quantiles.

    Returns:
        One row per run and entry: columns size, arch, seed, n_layers, op, param, layer, step,
        index, value (which may be inf or NaN).

    Raises:
        GradlabError: As `scale_distributions`.
    """
    distributions = scale_distributions(runs, step=step, ops=ops)
    found = []
    for run, (size, arch, seed) in zip(runs, run_keys(runs), strict=True):
        of_run = distributions[(distributions[_RUN] == [size, arch, seed]).all(axis=1)]
        found.append(
            _layers_only(run, ops)
            .merge(of_run[["param", "step", *_RUN, "n_layers"]], on=["param", "step"])
            .astype({"layer": "int64"})
        )
    return pd.concat(found, ignore_index=True)[_ENTRY_COLUMNS]


def lambda_by_depth(runs: Sequence[Run], *, step: int | None = None) -> pd.DataFrame:
    """The mean of λ_resid in each layer of each run (figure 6).

    Runs may differ in size, and with it in batch and schedule (`FREE`).

    Args:
        runs: Runs that recorded `scales`, by size, architecture and seed. Those whose architecture
            has no λ_resid are not in the result.
        step: A step that all of them recorded; the last such if None.

    Returns:
        One row per run and λ_resid: columns size, arch, seed, residual (`ffn_residual`, or
        `attn_residual` where both have one), layer, depth (layer / n_layers, layers from 0), step,
        entries, left_out, mean.

    Raises:
        GradlabError: As `scale_distributions`.
    """
    check_comparable(runs, free=FREE)
    found = _of_runs(runs, step, [LAMBDA])
    parents = found["param"].str.split(".").str[-2]
    # fairseq's w_resid stands in the layer itself, and scales the FFN's residual.
    found["residual"] = parents.mask(parents.str.isdigit(), "ffn_residual")
    found["depth"] = found["layer"] / found["n_layers"]
    columns = [*_RUN, "residual", "layer", "depth", "step", "entries", "left_out", "mean"]
    return found[columns]


def _of_runs(runs: Sequence[Run], step: int | None, ops: Sequence[str]) -> pd.DataFrame:
    tables = {id(run): _layers_only(run, ops) for run in runs}
    keys = dict(zip(map(id, runs), run_keys(runs), strict=True))
    # Only the runs that have such a scale say which step is the last in common.
    having = [run for run in runs if len(tables[id(run)])]
    if not having:
        raise GradlabError(
            f"no run has a learned {' or '.join(ops)}: none of the architectures "
            f"({', '.join(dict.fromkeys(arch for _, arch, _ in keys.values()))}) does."
        )
    if step is None:
        step = _last_common_step([tables[id(run)] for run in having])
    found = []
    for run in having:
        try:
            layers = scales_by_layer(tables[id(run)], step=step)
        except GradlabError as error:
            raise GradlabError(f"{name_of(run)}: {error}") from None
        size, arch, seed = keys[id(run)]
        n_layers = layers["layer"].max() + 1 if run.attached else run.config.model.n_layers
        found.append(layers.assign(size=size, arch=arch, seed=seed, n_layers=n_layers))
    return pd.concat(found, ignore_index=True)[[*_RUN, "n_layers", *_LAYER_COLUMNS]]


def _layers_only(run: Run, ops: Sequence[str]) -> pd.DataFrame:
    """The rows of these ops; no table is all that an architecture without any scale has."""
    scales = run.table("scales")
    if scales.empty:
        raise GradlabError(f"the table scales of {name_of(run)} has no rows.")
    return scales[scales["op"].isin(list(ops)) & scales["layer"].notna()]


def _last_common_step(tables: Sequence[pd.DataFrame]) -> int:
    # Where there are such, steps with an entry that is a number: a run goes on after its break.
    known = [set(table.loc[np.isfinite(table["value"]), "step"]) for table in tables]
    steps = [seen or set(table["step"]) for seen, table in zip(known, tables, strict=True)]
    common = steps[0].intersection(*steps[1:])
    if not common:
        raise GradlabError("the runs recorded their learned scales at no step in common.")
    return int(max(common))


def summarise_scales(distributions: pd.DataFrame) -> pd.DataFrame:
    """The distributions of each architecture over its seeds.

    Each quantile is the mean of the seeds' quantiles: the distribution that has the middle of
    theirs everywhere, where pooling their entries would widen it by the differences between seeds.

    Args:
        distributions: A table of `scale_distributions`.

    Returns:
        One row per (size, arch, op, layer), in the table's order: columns size, arch, op, layer,
        n_layers, step, runs (that have a finite entry), left_out (entries of all runs), mean, the
        quantiles, and median_min, median_max (over seeds). An op with several parameters in one
        layer has their mean.
    """
    key = ["size", "arch", "op", "layer"]
    rows = []
    for group, layer in distributions.groupby(key, sort=False):
        figures = layer.groupby("seed")[["mean", *QUANTILES]].mean().dropna()
        row: dict[str, Any] = dict(zip(key, group, strict=True))
        row |= {"n_layers": layer["n_layers"].iloc[0], "step": layer["step"].iloc[0]}
        row |= {"runs": len(figures), "left_out": int(layer["left_out"].sum())}
        row |= {name: figures[name].mean() for name in ("mean", *QUANTILES)}
        medians = figures["median"]
        rows.append({**row, "median_min": medians.min(), "median_max": medians.max()})
    return pd.DataFrame(rows)


def summarise_lambda(lambdas: pd.DataFrame) -> pd.DataFrame:
    """Mean λ_resid of each size and architecture over its seeds.

    Args:
        lambdas: A table of `lambda_by_depth`.

    Returns:
        One row per (size, arch, residual, layer), in the table's order: these columns, depth, step,
        runs (with a finite mean), left_out (entries of all runs), mean, low, high (Student's t
        interval over seeds; NaN for one run), min, max (over seeds).
    """
    key = ["size", "arch", "residual", "layer"]
    rows = []
    for group, layer in lambdas.groupby(key, sort=False):
        means = layer["mean"].dropna()
        interval = mean_interval(means.tolist())
        row: dict[str, Any] = dict(zip(key, group, strict=True))
        row |= {"depth": layer["depth"].iloc[0], "step": layer["step"].iloc[0]}
        row |= {"runs": len(means), "left_out": int(layer["left_out"].sum())}
        row |= {"mean": interval.mean, "low": interval.low, "high": interval.high}
        rows.append({**row, "min": means.min(), "max": means.max()})
    return pd.DataFrame(rows)
