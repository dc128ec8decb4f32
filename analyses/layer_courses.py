"""How gradients, updates, learned scales and attention scores went, step by step and by layer."""

import numpy as np
import pandas as pd

from gradlab.analyses.scales import QUANTILES
from gradlab.errors import GradlabError

_PLACE = ["op", "layer", "step"]

_BOUNDS = ("exact", "upper", "lower")
"""What a score is known by, the best first."""


def gradient_courses(grad_norms: pd.DataFrame) -> pd.DataFrame:
    """The L2 norm of the gradients of each op's weights in each layer, at each recorded step.

    Args:
        grad_norms: A run's `grad_norms` table.

    Returns:
        One row per (op, layer, step), ops in the table's order: columns op, layer (missing outside
        the blocks), step, value (L2 norm over all weights of the op there, biases left out; NaN
        where an entry was not finite), lost (whether one was not).

    Raises:
        GradlabError: No weight's gradient was recorded.
    """
    rows = _weights(grad_norms)
    if rows.empty:
        raise GradlabError("no gradient of a weight was recorded: there is nothing to draw.")
    rows = rows.assign(value=rows["grad_l2"].astype("float64") ** 2, lost=rows["nonfinite"] > 0)
    found = _by_place(rows, value=("value", "sum"))
    return found.assign(value=np.sqrt(found["value"]).mask(found["lost"]))


def update_courses(optimizer: pd.DataFrame) -> pd.DataFrame:
    """How far each step moved the weights, against their size: update_rms / param_rms.

    Args:
        optimizer: A run's `optimizer` table.

    Returns:
        One row per (op, layer, step): columns op, layer, step, value (the largest ratio of the op's
        weights there, biases left out; NaN where nothing moved, as at a skipped step, and for
        weights that are all 0), lost (whether update or weight was not finite).

    Raises:
        GradlabError: No weight's update was recorded.
    """
    rows = _weights(optimizer)
    if rows.empty:
        raise GradlabError("no update of a weight was recorded: there is nothing to draw.")
    update, size = (rows[name].astype("float64") for name in ("update_rms", "param_rms"))
    known = np.isfinite(update) & np.isfinite(size)
    ratio = (update / size.where(size > 0)).where(known & (update > 0))
    return _by_place(rows.assign(value=ratio, lost=~known), value=("value", "max"))


def scale_courses(scales: pd.DataFrame) -> pd.DataFrame:
    """The mean of each learned scale's entries, with their range.

    Args:
        scales: A run's `scales` table.

    Returns:
        One row per (op, layer, step): columns op, layer, step, value (mean of the finite entries),
        low, high, lost (whether an entry was not finite).

    Raises:
        GradlabError: The table is empty.
    """
    if scales.empty:
        raise GradlabError("no learned scale was recorded: there is nothing to draw.")
    finite = np.isfinite(scales["value"])
    rows = scales.assign(value=scales["value"].where(finite), lost=~finite)
    return _by_place(rows, value=("value", "mean"), low=("value", "min"), high=("value", "max"))


def score_courses(scores: pd.DataFrame) -> pd.DataFrame:
    """The largest attention score of each head: |q·k|, scaled.

    Args:
        scores: A run's `scores` table.

    Returns:
        One row per (site, head, step): columns site, layer, head (missing where a row is of all
        heads), step, bound (`exact`, or else `upper`), value (max_abs, or |max| where that was not
        recorded), lost (whether it was not finite, which an upper bound may be where no score is).

    Raises:
        GradlabError: The table is empty.
    """
    if scores.empty:
        raise GradlabError("no attention score was recorded: there is nothing to draw.")
    size = scores["max_abs"].fillna(scores["max"].abs()).astype("float64")
    rows = scores.assign(value=size.where(np.isfinite(size)), lost=~np.isfinite(size))
    rows = rows.assign(rank=rows["bound"].map({name: at for at, name in enumerate(_BOUNDS)}))
    best = rows.sort_values("rank", kind="stable").drop_duplicates(["site", "head", "step"])
    columns = ["site", "layer", "head", "step", "bound", "value", "lost"]
    return best.sort_index()[columns].reset_index(drop=True)


def _weights(table: pd.DataFrame) -> pd.DataFrame:
    return table[~table["param"].str.endswith("bias")]


def _by_place(rows: pd.DataFrame, **figures: tuple[str, str]) -> pd.DataFrame:
    """The figures of each op, layer and step: a column of rows and how it is put together."""
    groups = rows.groupby(_PLACE, dropna=False)
    found = groups.agg(**figures, lost=("lost", "any")).reset_index()
    is_outside = rows["layer"].isna().groupby(rows["op"], sort=False).all()
    # As ops come in the table, those within the layers first; layers and steps in order.
    ops = [*is_outside.index[~is_outside], *is_outside.index[is_outside]]
    places = found["op"].map({op: place for place, op in enumerate(ops)})
    return found.iloc[np.argsort(places, kind="stable")].reset_index(drop=True)


def gradients_of_layers(grad_norms: pd.DataFrame) -> pd.DataFrame:
    """The L2 norm of the gradients of all weights of a layer, at each recorded step.

    Args:
        grad_norms: A run's `grad_norms` table.

    Returns:
        One row per (step, layer), sorted by both: columns step, layer (missing outside the blocks,
        which come last), value (biases left out; inf where an entry was not finite).

    Raises:
        GradlabError: No weight's gradient was recorded.
    """
    courses = gradient_courses(grad_norms)
    courses["value"] = (courses["value"] ** 2).mask(courses["lost"], np.inf)
    found = courses.groupby(["step", "layer"], dropna=False)["value"].sum().reset_index()
    return found.assign(value=np.sqrt(found["value"]))


def gradient_sizes(grad_norms: pd.DataFrame) -> pd.DataFrame:
    """How the mean |g| of a layer's weights is distributed over weights and recorded steps.

    Args:
        grad_norms: A run's `grad_norms` table.

    Returns:
        One row per layer: columns layer, entries (weights times steps, biases left out; those with
        a finite gradient that is not 0), left_out (not finite), zeros (0 throughout), and the
        quantiles low, q05, q25, median, q75, q95, high of mean |g| (linear between entries; NaN of
        nothing).

    Raises:
        GradlabError: No weight of a layer was recorded.
    """
    rows = _weights(grad_norms)
    rows = rows[rows["layer"].notna()]
    if rows.empty:
        raise GradlabError("no gradient of a weight in a layer was recorded: nothing to draw.")
    finite = rows["nonfinite"] == 0
    size = (rows["grad_l1"].astype("float64") / rows["numel"]).where(finite)
    rows = pd.DataFrame({"layer": rows["layer"].astype("int64"), "size": size, "finite": finite})
    found = []
    for layer, of_layer in rows.groupby("layer"):
        sizes = of_layer["size"].to_numpy(np.float64)
        positive = sizes[sizes > 0]
        known = np.quantile(positive, list(QUANTILES.values())) if len(positive) else np.nan
        counts = {"entries": len(positive), "left_out": int((~of_layer["finite"]).sum())}
        row = {"layer": layer, **counts, "zeros": int((sizes == 0).sum())}
        found.append(
            row | dict(zip(QUANTILES, np.broadcast_to(known, len(QUANTILES)), strict=True))
        )
    return pd.DataFrame(found)
