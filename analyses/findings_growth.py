"""What grew without end: the loss from step to step, or sizes from layer to layer."""

import numpy as np
import pandas as pd

from gradlab.analyses.finding import Finding, counted, figure
from gradlab.analyses.headroom import not_finite

DIVERGED = 1e3
"""Times its lowest, for a loss and for the gradients' norm at once; chance does not come so far."""

_EACH, _LAYERS = 1.5, 4
"""From layer to layer, and over so many layers at least, sizes must grow to be said to."""

_JUMP, _BEFORE = 10.0, 20
"""Times the median of so many losses before it, for a loss that is also the largest so far."""


def growth_findings(steps: pd.DataFrame, headroom: pd.DataFrame | None) -> list[Finding]:
    """That the training diverged, or that what was not finite had grown layer by layer.

    Args:
        steps: The run's `steps`.
        headroom: Its `headroom`, or None.
    """
    found = [*_diverged(steps), *_jumped(steps)]
    return found if headroom is None else [*found, *_exploded(headroom)]


def _diverged(steps: pd.DataFrame) -> list[Finding]:
    numbers = steps[["loss", "grad_norm"]].to_numpy(np.float64)
    finite = steps[np.isfinite(numbers).all(axis=1)]
    if finite.empty:
        return []
    low, last = finite.loc[finite["loss"].idxmin()], finite.iloc[-1]
    grew = [0 < DIVERGED * low[name] <= last[name] for name in ("loss", "grad_norm")]
    if not all(grew):
        return []
    return [
        Finding(
            "diverged",
            f"The training exploded: from step {low['step']:.0f} to step {last['step']:.0f} the "
            f"loss grew from {low['loss']:.4g} to {last['loss']:.4g}, and the norm of the "
            f"gradients from {figure(low['grad_norm'])} to {figure(last['grad_norm'])}. A lower "
            "learning rate, a warm-up or clipping keeps updates from growing so.",
        )
    ]


def _jumped(steps: pd.DataFrame) -> list[Finding]:
    """The first loss far above all before it, and the learning rate that led to it."""
    known = steps[np.isfinite(steps["loss"].to_numpy(np.float64))].reset_index(drop=True)
    loss = known["loss"]
    usual = loss.rolling(_BEFORE, min_periods=5).median().shift()
    jumps = np.flatnonzero((loss >= _JUMP * usual) & (loss > loss.cummax().shift()) & (usual > 0))
    if not len(jumps):
        return []
    at = int(jumps[0])
    row, before = known.iloc[at], known.iloc[max(0, at - _BEFORE) : at]
    sentence = (
        f"At step {row['step']:.0f} the loss was {figure(row['loss'] / usual[at])} times the "
        f"median of the {len(before)} before it ({row['loss']:.4g}, {usual[at]:.4g})"
    )
    rates = pd.concat([before["lr"], known["lr"].iloc[[at]]])
    highest = rates.idxmax() if rates.notna().any() else at
    if rates[highest] >= _JUMP * rates.median() > 0:
        sentence += (
            f"; the learning rate was {figure(rates[highest])} at step "
            f"{known['step'][highest]:.0f}, {figure(rates.median())} at most others"
        )
    return [Finding("loss jumped", f"{sentence}.")]


def _exploded(headroom: pd.DataFrame) -> list[Finding]:
    """At the first step that was not finite, the op whose sizes grew most until they were not."""
    rows = headroom.reset_index(drop=True)
    lost = rows[not_finite(rows)]
    if lost.empty:
        return []
    first = lost[lost["step"] == lost["step"].min()].iloc[0]
    rows = rows[(rows["step"] == first["step"]) & (rows["direction"] == first["direction"])]
    rows = rows[(rows.index < first.name) & rows["layer"].notna() & (rows["max_abs"] > 0)]
    most: pd.DataFrame | None = None
    for _, sizes in rows.drop_duplicates(["op", "layer"]).groupby("op", sort=False):
        size = sizes["max_abs"].to_numpy(np.float64)
        grows = len(size) >= _LAYERS and bool((size[1:] >= _EACH * size[:-1]).all())
        if grows and size[-1] >= DIVERGED * size[0] and (most is None or len(size) > len(most)):
            most = sizes
    if most is None:
        return []
    start, end = most.iloc[0], most.iloc[-1]
    times = (end["max_abs"] / start["max_abs"]) ** (1 / (len(most) - 1))
    what = "gradients" if first["direction"] == "backward" else "outputs"
    return [
        Finding(
            "exploded",
            f"At step {first['step']} the {what} exploded layer by layer: largest "
            f"{figure(start['max_abs'])} at {start['site']} and {figure(end['max_abs'])} at "
            f"{end['site']}, {figure(times)} times as large with each of "
            f"{counted(len(most), 'layer')}. Normalise between the layers, or start with "
            "smaller weights.",
        )
    ]
