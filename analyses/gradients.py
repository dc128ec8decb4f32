"""How large each layer's gradients are over some steps, and how unequal early and late layers.

Mismatch is what section 4 and figure 3 of the NormFormer paper are about: in Post-LN the later
layers have the larger gradients, in Pre-LN the earlier ones.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from gradlab.config import RunConfig
from gradlab.errors import GradlabError, unknown

WINDOW_STEPS = 50
"""Steps that a window averages unless told otherwise."""

LAYER_COLUMNS = ("op", "layer", "numel", "steps", "left_out", "grad_l1", "grad_mean_abs")
"""The columns of `gradients_by_layer`."""


@dataclass(frozen=True)
class Window:
    """Steps from `first` to `last`, both included."""

    first: int
    last: int


def windows_of(config: RunConfig, length: int = WINDOW_STEPS) -> dict[str, Window]:
    """The two windows in which a run's gradients are looked at, by name.

    `early` is the first `length` steps after the warm-up: the learning rate is at its peak, and
    what is measured is neither the initialisation nor the ramp. `late` is the last `length` steps.

    Raises:
        GradlabError: The run has no room for both.
    """
    warmup = config.schedule.warmup_steps
    if length < 1:
        raise GradlabError(f"a window of {length} steps holds nothing: average at least one.")
    if config.steps < warmup + 2 * length:
        have = "steps have" if config.steps != 1 else "step has"
        raise GradlabError(
            f"{config.steps} {have} no room for two windows of {length} after {warmup} of "
            "warm-up: take more steps, or average fewer."
        )
    return {
        "early": Window(warmup, warmup + length - 1),
        "late": Window(config.steps - length, config.steps - 1),
    }


def gradients_by_layer(
    grad_norms: pd.DataFrame, *, first: int, last: int, op: str | None = None
) -> pd.DataFrame:
    """Mean gradient of each op's weights in each layer, over the steps from `first` to `last`.

    Biases, and parameters outside the blocks, are not in it. The means are over the recorded
    steps; a row with a non-finite entry is left out of them and counted. Where an op has several
    weights in a layer, as the experts of a mixture do, their means are added.

    Args:
        grad_norms: A run's `grad_norms` table.
        first: The first step.
        last: The last step, included.
        op: The one op to look at; all if None.

    Returns:
        One row per (op, layer), ops as they come in the table, layers in order: columns op,
        layer, numel, steps (recorded in the window), left_out (rows with non-finite entries),
        grad_l1 (mean Σ|g|; NaN where no row of a weight is finite) and grad_mean_abs
        (grad_l1 / numel).

    Raises:
        GradlabError: No weight of a layer was recorded in these steps, or none of that op.
    """
    rows = grad_norms[grad_norms["layer"].notna() & ~grad_norms["param"].str.endswith("bias")]
    if op is not None:
        known = list(pd.unique(rows["op"]))
        if op not in known:
            raise GradlabError(unknown("op", op, known))
        rows = rows[rows["op"] == op]
    rows = rows[rows["step"].between(first, last)]
    if rows.empty:
        raise GradlabError(f"no layer's gradients were recorded in steps {first} to {last}.")
    finite = rows["nonfinite"] == 0
    rows = rows.assign(
        layer=rows["layer"].astype("int64"),
        left_out=(~finite).astype("int64"),
        grad_l1=rows["grad_l1"].where(finite),
    )
    key = ["op", "layer"]
    weights = rows.groupby([*key, "param"], sort=False).agg(
        numel=("numel", "first"), left_out=("left_out", "sum"), grad_l1=("grad_l1", "mean")
    )
    groups = weights.groupby(key, sort=False)
    found = groups[["numel", "left_out"]].sum()
    found["steps"] = rows.groupby(key, sort=False)["step"].nunique()
    # A weight without a mean leaves its layer without a sum.
    found["grad_l1"] = groups["grad_l1"].sum().where(groups["grad_l1"].count() == groups.size())
    found["grad_mean_abs"] = found["grad_l1"] / found["numel"]
    order = {name: place for place, name in enumerate(pd.unique(grad_norms["op"]))}
    found = found.reset_index().sort_values(
        key, key=lambda column: column.map(order) if column.name == "op" else column
    )
    return found[list(LAYER_COLUMNS)].reset_index(drop=True)


def mismatch(
    grad_norms: pd.DataFrame, *, first: int, last: int, op: str | None = None
) -> pd.DataFrame:
    """How unequal the gradients of early and late layers are, for each op's weights.

    Args:
        grad_norms: A run's `grad_norms` table.
        first: The first step.
        last: The last step, included.
        op: The one op to look at; all if None.

    Returns:
        A row per op, of `mismatch_of_layers`.

    Raises:
        GradlabError: As `gradients_by_layer`.
    """
    layers = gradients_by_layer(grad_norms, first=first, last=last, op=op)
    n_layers = int(grad_norms["layer"].max()) + 1
    rows = [
        {"op": name, **mismatch_of_layers(rows, n_layers)}
        for name, rows in layers.groupby("op", sort=False)
    ]
    return pd.DataFrame(rows, columns=["op", "layers", "left_out", "ratio", "slope"])


def mismatch_of_layers(layers: pd.DataFrame, n_layers: int) -> dict[str, Any]:
    """The mismatch of one op.

    Args:
        layers: Its rows of `gradients_by_layer`.
        n_layers: Blocks of the model.

    Returns:
        `layers` that have the op; `left_out`, the rows that were; `ratio`, the sum of grad_l1 over
        the first two layers divided by that over the last two (one layer each where there are
        fewer than four), above 1 where early layers have the larger gradients; `slope`, the
        least-squares slope of ln grad_mean_abs against layer / (n_layers − 1): the change over
        the whole depth in factors of e, below 0 where early layers have the larger gradients. Each
        is NaN where a figure that it needs is missing or there is one layer only, the slope also
        where a gradient is 0.
    """
    layers = layers.sort_values("layer")
    count = len(layers)
    ratio = slope = math.nan
    if count > 1:
        l1, ends = layers["grad_l1"].to_numpy(np.float64), min(2, count // 2)
        early, late = float(l1[:ends].sum()), float(l1[-ends:].sum())
        ratio = early / late if late else (math.inf if early > 0 else math.nan)
        size = layers["grad_mean_abs"].to_numpy(np.float64)
        depth = layers["layer"].to_numpy(np.float64) / (n_layers - 1)
        if (size > 0).all():
            slope = _slope(depth, np.log(size))
    left_out = int(layers["left_out"].sum())
    return {"layers": count, "left_out": left_out, "ratio": ratio, "slope": slope}


def _slope(x: "np.typing.NDArray[np.float64]", y: "np.typing.NDArray[np.float64]") -> float:
    """Of the least-squares line through the points."""
    aside = x - x.mean()
    return float((aside * (y - y.mean())).sum() / (aside**2).sum())
