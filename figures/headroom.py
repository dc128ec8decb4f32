"""The road to the break: FP16 headroom of each layer's tightest site against the learning rate."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from gradlab.errors import GradlabError, unknown
from gradlab.figures.layer_grid import (
    AXES,
    Frame,
    Panel,
    Shade,
    draw_bar,
    draw_grid,
    grid_handles,
    grid_panels,
)
from gradlab.figures.steps_axis import LOST
from gradlab.figures.style import figure_of, legend_above, paper_axes, paper_style

_BITS = Shade(
    "headroom_bits",
    worst="min",
    # Dark where little is left, light where much is, and bright where there was an overflow.
    colors=seaborn.color_palette("mako", as_cmap=True).with_extremes(under=LOST),
    label="Least headroom\n(FP16 bits)",
    lost="overflow (inf or NaN)",
    marked="a gradient overflowed",
)


@dataclass(frozen=True)
class Road:
    """What one panel shows.

    Attributes:
        tightest: A table of `gradlab.analyses.headroom.tightest_by_layer`.
        break_lr: The learning rate at the break, if the run broke.
        break_step: The step.
        seed: The run's seed, which the panel's title then says.
        gradients: A table of `gradlab.analyses.headroom.gradient_overflows`: marked above.
    """

    tightest: pd.DataFrame
    break_lr: float | None = None
    break_step: int | None = None
    seed: int | None = None
    gradients: pd.DataFrame | None = None

    def end(self, against: str) -> float | None:
        """Where the break is on an axis."""
        return self.break_step if against == "step" else self.break_lr


def headroom_to_break(
    tightest: pd.DataFrame, *, break_lr: float | None = None, ax: Axes | None = None
) -> Axes:
    """Bits left at the tightest site of each layer of one run: a row a layer, the first on top.

    At 0 bits a tensor holds FP16's largest number; a site that holds inf or NaN has none left
    (−inf), which has a colour of its own. A cell is the least headroom of its stretch of learning
    rates; one in which nothing was recorded shows the one before, or what was recorded next if that
    is nearer, but never an overflow. Sites outside the layers are the last row.

    Args:
        tightest: A table of `gradlab.analyses.headroom.tightest_by_layer`.
        break_lr: Marked by a vertical line; what came after it is not drawn, unless nothing came
            before it.
        ax: Where to draw; a new one-column figure if None.

    Raises:
        GradlabError: The table is empty.
    """
    panel = Panel.until(break_lr, "lr", "", tightest)
    frame = _frame([panel], "lr")
    if ax is None:
        ax = paper_axes(height=0.9 + frame.height)
    with paper_style():
        has_gaps = draw_grid(ax, panel, frame, _BITS)
        ax.set_xlabel(AXES["lr"])
        ax.set_ylabel("Layer")
        draw_bar(figure_of(ax), [ax], frame, _BITS)
        if handles := grid_handles([panel], frame, _BITS, has_gaps=has_gaps):
            legend_above(ax, handles)
    return ax


def headroom_panels(roads: Mapping[str, Road], *, against: str = "lr") -> Figure:
    """`headroom_to_break` of several runs, side by side on one scale.

    Args:
        roads: The panels by their titles.
        against: `lr`, or `step` for runs whose learning rate does not rise all the way.

    Raises:
        GradlabError: There are no runs, none has headroom, or it cannot be drawn against that.
    """
    if against not in AXES:
        raise GradlabError(unknown("axis", against, AXES))
    panels = [
        Panel.until(
            road.end(against),
            against,
            title if road.seed is None else f"{title}, seed {road.seed}",
            road.tightest,
            [] if road.gradients is None else road.gradients[against].tolist(),
        )
        for title, road in roads.items()
    ]
    return grid_panels(panels, _frame(panels, against), _BITS)


def _frame(panels: Sequence[Panel], against: str) -> Frame:
    """What the panels share; 0 bits are always on the scale."""
    tables = [panel.table for panel in panels if len(panel.table)]
    if not tables:
        raise GradlabError(
            "no headroom was recorded, or none that is a number: there is nothing to draw."
        )
    bits = pd.concat([table["headroom_bits"] for table in tables])
    finite = bits[np.isfinite(bits)]
    return Frame.of(panels, against, Normalize(min([0.0, *finite]), max([1.0, *finite])))
