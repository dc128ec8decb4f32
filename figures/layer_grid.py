"""Rows of layers over a run: a cell is the worst of its stretch of steps or learning rates."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
import seaborn
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import Formatter, MaxNLocator
from numpy.typing import NDArray

from gradlab.figures.labels import rate_label
from gradlab.figures.steps_axis import BREAK, LOST, break_mark
from gradlab.figures.style import (
    ONE_COLUMN,
    PAPER,
    TWO_COLUMNS,
    legend_over,
    panel_columns,
    paper_style,
)

AXES = {"lr": "Learning rate", "step": "Step"}
"""What a grid can be drawn against, by column."""

_CELLS = 60
"""The most cells of a row."""

_ROW = 0.17
"""Height of a layer's row in inches."""

_MOST_ROWS = 16
"""Layers from which on a panel grows no higher."""

_OUTSIDE = "outside the layers"
"""Where embeddings, the final norm and the output are."""


@dataclass(frozen=True)
class Shade:
    """What the colour of a cell says.

    Attributes:
        column: What of the table is drawn; what was not finite is −inf where the least is the
            worst, and inf where the largest is.
        worst: Which of a stretch's values its cell has.
        colors: With a colour beyond its end for what was not finite.
        label: Of the scale.
        lost: What the colour beyond the scale says.
        marked: What the marks above a panel say.
        ticks: How the scale's numbers are written; None for as they are.
    """

    column: str
    worst: Literal["min", "max"]
    colors: Colormap
    label: str
    lost: str
    marked: str = ""
    ticks: Formatter | None = None


@dataclass(frozen=True)
class Panel:
    """A run's grid.

    Attributes:
        title: Above it.
        table: Columns layer (missing outside the layers), what the shade draws, and what it is
            drawn against.
        end: Where the break is, on that axis.
        marks: Where something happened that no cell shows.
    """

    title: str
    table: pd.DataFrame
    end: float | None
    marks: Sequence[float] = ()

    @classmethod
    def until(
        cls,
        end: float | None,
        against: str,
        title: str,
        table: pd.DataFrame,
        marks: Sequence[float] = (),
    ) -> Self:
        """The panel up to the break, with the step at which it is; all there is without one."""
        last = math.inf if end is None else end + 1e-9 * abs(end)
        return cls(title, table[table[against] <= last], end, [x for x in marks if x <= last])


@dataclass(frozen=True)
class Frame:
    """What all panels share.

    Attributes:
        rows: The layers, and last None if there is something outside them.
        edges: Of the stretches of x that are a cell each.
        scale: Of the finite values.
        against: The column of x.
    """

    rows: Sequence[int | None]
    edges: NDArray[np.float64]
    scale: Normalize
    against: str

    @classmethod
    def of(cls, panels: Sequence[Panel], against: str, scale: Normalize) -> Self:
        """The frame of some panels, of which one at least has rows."""
        tables = [panel.table for panel in panels if len(panel.table)]
        layers = pd.concat([table["layer"] for table in tables])
        rows: list[int | None] = [int(layer) for layer in sorted(layers.dropna().unique())]
        if layers.isna().any():
            rows.append(None)
        columns = [table[against] for table in tables]
        # A rate rises from 0; steps go on from those of the checkpoint in a training resumed.
        first = min(float(column.min()) for column in columns) if against == "step" else 0.0
        ends = [panel.end for panel in panels if panel.end is not None]
        last = max([*(float(column.max()) for column in columns), *ends])
        return cls(rows, _edges(columns, first, last), scale, against)

    @property
    def height(self) -> float:
        """Of a panel, in inches."""
        return max(_ROW * min(len(self.rows), _MOST_ROWS), 0.7)

    def place(self, x: float) -> float:
        """Where a value of x is, in cells."""
        width = self.edges[1] - self.edges[0]
        return float((x - self.edges[0]) / width)

    def ends_before(self, panel: Panel) -> bool:
        """Whether a panel has no cell where others have their last."""
        last = panel.table[self.against].max() if panel.end is None else panel.end
        return not self.place(float(last)) >= len(self.edges) - 2


def grid_panels(panels: Sequence[Panel], frame: Frame, shade: Shade) -> Figure:
    """Grids side by side on one scale, up to four in a line."""
    columns = panel_columns(len(panels), 4)
    pad = 9 if any(len(panel.marks) for panel in panels) else None
    lines = -(-len(panels) // columns)
    width = ONE_COLUMN if columns == 1 else TWO_COLUMNS
    with paper_style():
        figure, grid = plt.subplots(
            lines,
            columns,
            figsize=(width, 0.7 + (0.3 + frame.height) * lines),
            sharex=True,
            sharey=True,
            squeeze=False,
            layout="constrained",
        )
        for ax, panel in zip(grid.flat, panels, strict=False):
            draw_grid(ax, panel, frame, shade)
            ax.set_title(panel.title, loc="left", pad=pad, fontsize=7 if columns > 2 else None)
        for index, ax in enumerate(grid.flat):
            ax.set_visible(index < len(panels))
            ax.tick_params(labelbottom=index + columns >= len(panels))
        figure.supxlabel(AXES[frame.against], fontsize=PAPER["axes.labelsize"])
        figure.supylabel("Layer", fontsize=PAPER["axes.labelsize"])
        draw_bar(figure, list(grid.flat), frame, shade)
        if handles := grid_handles(panels, frame, shade):
            legend_over(figure, handles)
    return figure


def draw_grid(ax: Axes, panel: Panel, frame: Frame, shade: Shade) -> None:
    """One panel."""
    seaborn.heatmap(
        _cells(panel, frame, shade),
        vmin=frame.scale.vmin,
        vmax=frame.scale.vmax,
        cmap=shade.colors,
        cbar=False,
        xticklabels=False,
        yticklabels=False,
        rasterized=True,  # no seams between cells in a PDF
        ax=ax,
    )
    ax.set(xlabel="", ylabel="")
    ax.grid(False)
    _set_ticks(ax, frame)
    if panel.end is not None:
        # Before its cell, which shows what broke; with a light edge, as cells may be black.
        edge = [withStroke(linewidth=1.8, foreground="white")]
        ax.axvline(int(frame.place(panel.end)), zorder=3, path_effects=edge, **BREAK)
    if cells := sorted({int(frame.place(x)) for x in panel.marks}):
        at = [cell + 0.5 for cell in cells]
        above = ax.get_xaxis_transform()
        ax.plot(at, [1.04] * len(at), transform=above, clip_on=False, **_MARK)
    if None in frame.rows:
        ax.axhline(len(frame.rows) - 1, color="white", linewidth=1.5)


def draw_bar(figure: Figure, axes: Sequence[Axes], frame: Frame, shade: Shade) -> None:
    """The scale of colours."""
    bar = figure.colorbar(
        ScalarMappable(frame.scale, shade.colors),
        ax=list(axes),
        location="right",
        pad=0.02,
        aspect=14,
    )
    bar.outline.set_visible(False)
    bar.ax.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    if shade.ticks is not None:
        bar.ax.yaxis.set_major_formatter(shade.ticks)
    bar.ax.tick_params(length=0)
    bar.set_label(shade.label, fontsize=7)


def grid_handles(panels: Sequence[Panel], frame: Frame, shade: Shade) -> list[Line2D]:
    """What is in the panels and not on the scale of colours."""
    square: dict[str, Any] = {"linestyle": "none", "marker": "s", "markersize": 5}
    least = shade.worst == "min"
    color = shade.colors.get_under() if least else shade.colors.get_over()
    handles = []
    if any(
        (panel.table[shade.column] == (-math.inf if least else math.inf)).any() for panel in panels
    ):
        handles.append(Line2D([], [], color=tuple(color), label=shade.lost, **square))
    if any(len(panel.marks) for panel in panels):
        handles.append(Line2D([], [], label=shade.marked, **_MARK))
    if any(panel.end is not None for panel in panels):
        handles.append(break_mark())
    if any(frame.ends_before(panel) for panel in panels):
        white = {**square, "markerfacecolor": "white", "markeredgecolor": "0.5"}
        handles.append(Line2D([], [], label="after a run's end", **white, markeredgewidth=0.5))
    return handles


_MARK: dict[str, Any] = {"linestyle": "none", "marker": "v", "markersize": 3.0, "color": LOST}


def _edges(columns: "Sequence[pd.Series[float]]", first: float, last: float) -> NDArray[np.float64]:
    """Stretches of equal length over `first` to `last`, none shorter than is usual for two rows."""
    gaps = [np.diff(np.unique(column.to_numpy(np.float64))) for column in columns]
    usual = max((float(np.median(gap)) for gap in gaps if len(gap)), default=0.0)
    length = last - first
    cells = min(round(length / usual) + 1, _CELLS) if usual > 0 else 1
    # A row stands in the middle of its cell where each has one of its own.
    margin = (length / (cells - 1) if cells > 1 else length or 1.0) / 2
    return np.linspace(first - margin, last + margin, cells + 1)


def _cells(panel: Panel, frame: Frame, shade: Shade) -> pd.DataFrame:
    """The worst of each row and stretch; what was not finite is beyond the scale.

    A cell for which nothing was recorded shows the one before it, up to the last or the break.
    """
    table = panel.table
    stretch = np.digitize(table[frame.against].to_numpy(np.float64), frame.edges) - 1
    row = table["layer"].map({layer: place for place, layer in enumerate(frame.rows)})
    row = row.astype("float64").fillna(len(frame.rows) - 1).astype(int)
    assert frame.scale.vmin is not None
    assert frame.scale.vmax is not None
    values = table[shade.column].astype("float64")
    values = values.clip(frame.scale.vmin - 1, frame.scale.vmax + 1)
    cells = values.groupby([row.to_numpy(), stretch]).agg(shade.worst).unstack()
    cells = cells.reindex(index=range(len(frame.rows)), columns=range(len(frame.edges) - 1))
    last = stretch.max(initial=-1) if panel.end is None else int(frame.place(panel.end))
    return cells.ffill(axis=1).loc[:, :last].reindex(columns=cells.columns)


def _set_ticks(ax: Axes, frame: Frame) -> None:
    first, last = max(float(frame.edges[0]), 0.0), float(frame.edges[-1])
    rates = MaxNLocator(4, steps=[1, 2, 2.5, 5, 10], integer=frame.against == "step")
    ticks = [x for x in rates.tick_values(first, last) if first <= x <= last]
    if frame.against == "step":
        ticks = [x for x in ticks if x == round(x)]
    write = rate_label if frame.against == "lr" else "{:.0f}".format
    ax.set_xticks([frame.place(x) for x in ticks], [write(x) for x in ticks])
    layers = len(frame.rows) - (None in frame.rows)
    every = max(-(-layers // 8), 1)
    places = list(range(0, layers, every))
    labels = [str(frame.rows[place]) for place in places]
    if None in frame.rows:
        places, labels = [*places, layers], [*labels, _OUTSIDE.replace(" the", "\nthe")]
    ax.set_yticks([place + 0.5 for place in places], labels)
    ax.tick_params(rotation=0)
    ax.tick_params(axis="y", length=0)
