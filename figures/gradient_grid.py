"""The norm of each layer's gradients over steps: a row a layer, a cell a stretch of steps."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import seaborn
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from gradlab.errors import GradlabError
from gradlab.figures.labels import rate_label
from gradlab.figures.layer_grid import Frame, Panel, Shade, grid_panels
from gradlab.figures.steps_axis import LOST

_NORMS = Shade(
    "log_norm",
    worst="max",
    # Light where gradients are small, dark where they are large; grey where all were 0.
    colors=seaborn.color_palette("mako_r", as_cmap=True).with_extremes(over=LOST, under="0.7"),
    label="Largest gradient norm\n(L2, log scale)",
    lost="not finite (inf or NaN)",
    ticks=FuncFormatter(lambda power, _: rate_label(float(f"{10.0**power:.2g}"))),
)


def gradient_grid(
    gradients: Mapping[str, pd.DataFrame], breaks: Mapping[str, int | None] | None = None
) -> Figure:
    """Layer against step, a panel a run, all on one scale.

    A cell is the largest norm of its stretch of steps, up to the break; a step at which an entry
    was not finite has a colour of its own, and grey is a layer whose gradients were all 0. What is
    outside the layers is the last row.

    Args:
        gradients: Tables of `gradlab.analyses.layer_courses.gradients_of_layers` by the panel's
            title.
        breaks: The step of each one's break, if it broke.

    Raises:
        GradlabError: No gradient is finite and other than 0.
    """
    breaks = breaks or {}
    panels = [
        Panel.until(
            breaks.get(title), "step", title, table.assign(log_norm=_logarithm(table["value"]))
        )
        for title, table in gradients.items()
    ]
    logs = pd.concat([panel.table["log_norm"] for panel in panels])
    finite = logs[np.isfinite(logs)]
    if finite.empty:
        raise GradlabError("no gradient is finite and other than 0: there is nothing to draw.")
    room = 0.5 if finite.max() == finite.min() else 0.0
    scale = Normalize(finite.min() - room, finite.max() + room)
    return grid_panels(panels, Frame.of(panels, "step", scale), _NORMS)


def _logarithm(norms: "pd.Series[float]") -> "pd.Series[float]":
    with np.errstate(divide="ignore"):
        return pd.Series(np.log10(norms.to_numpy(np.float64)), index=norms.index)
