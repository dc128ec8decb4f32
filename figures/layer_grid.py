"""Rows of layers over a run: a cell is the worst of its stretch of steps or learning rates."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import Formatter, MaxNLocator
from numpy.typing import ArrayLike, NDArray

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
        """The panel up to the break, with the step at which it is; all there is without one.

        Where nothing was recorded up to it, what was recorded first stays.
        """
        last = math.inf
        if end is not None:
            last = max(end, float(table[against].min())) + 1e-9 * abs(end)
        return cls(title, table[table[against] <= last], end, [x for x in marks if x <= last])


@dataclass(frozen=True)
class Frame:
    """What all panels share.

    Attributes:
        rows: The layers, and last None if there is something outside them.
        edges: Of the stretches of x that are a cell each, from the first x to the last.
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
        every = [panel.end for panel in panels if panel.end is not None]
        every += [
            float(x) for table in tables for x in (table[against].min(), table[against].max())
        ]
        # A rate rises from 0; steps go on from those of the checkpoint in a training resumed.
        first = min(every) if against == "step" else 0.0
        return cls(rows, _edges(tables, against, first, max(every)), scale, against)

    @property
    def height(self) -> float:
        """Of a panel, in inches."""
        return max(_ROW * min(len(self.rows), _MOST_ROWS), 0.7)

    def cells_of(self, x: ArrayLike) -> NDArray[np.int64]:
        """Which cells show what is at x."""
        return np.searchsorted(self.edges[1:-1], np.asarray(x, np.float64), side="right")


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
        has_gaps = False
        for ax, panel in zip(grid.flat, panels, strict=False):
            has_gaps |= draw_grid(ax, panel, frame, shade)
            ax.set_title(panel.title, loc="left", pad=pad, fontsize=7 if columns > 2 else None)
        for index, ax in enumerate(grid.flat):
            ax.set_visible(index < len(panels))
            ax.tick_params(labelbottom=index + columns >= len(panels))
        figure.supxlabel(AXES[frame.against], fontsize=PAPER["axes.labelsize"])
        figure.supylabel("Layer", fontsize=PAPER["axes.labelsize"])
        draw_bar(figure, list(grid.flat), frame, shade)
        if handles := grid_handles(panels, frame, shade, has_gaps=has_gaps):
            legend_over(figure, handles)
    return figure


def draw_grid(ax: Axes, panel: Panel, frame: Frame, shade: Shade) -> bool:
    """One panel; whether it has cells for which nothing was recorded."""
    cells = _cells(panel, frame, shade)
    mesh = ax.pcolormesh(
        frame.edges,
        np.arange(len(frame.rows) + 1),
        np.ma.masked_invalid(cells),
        norm=frame.scale,
        cmap=shade.colors,
        rasterized=True,  # no seams between cells in a PDF
    )
    ax.set(xlabel="", ylabel="", xlim=frame.edges[[0, -1]], ylim=(len(frame.rows), 0))
    ax.grid(False)
    ax.spines[:].set_visible(False)
    _set_ticks(ax, frame)
    first, last = panel.table[frame.against].min(), _last(panel, frame)
    if first < last:  # the cells at both ends go on beyond what they show
        shown = Rectangle((first, 0), last - first, len(frame.rows), transform=ax.transData)
        mesh.set_clip_path(shown)
    if panel.end is not None:
        # With a light edge, as cells may be black; whole where it is the edge of the panel.
        edge = [withStroke(linewidth=1.8, foreground="white")]
        ax.axvline(panel.end, zorder=3, path_effects=edge, clip_on=False, **BREAK)
    if len(panel.marks):
        marks = np.sort(np.asarray(panel.marks, np.float64))
        _, places = np.unique(frame.cells_of(marks), return_index=True)
        above = ax.get_xaxis_transform()
        ax.plot(marks[places], [1.04] * len(places), transform=above, clip_on=False, **_MARK)
    if None in frame.rows:
        ax.axhline(len(frame.rows) - 1, color="white", linewidth=1.5)
    return bool(np.isnan(cells).any())


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


def grid_handles(
    panels: Sequence[Panel], frame: Frame, shade: Shade, *, has_gaps: bool
) -> list[Line2D]:
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
    ends = [panel.end for panel in panels if panel.end is not None]
    if ends:
        name = "LR" if frame.against == "lr" else "step"
        where = f", {name} {rate_label(ends[0])}" if len(panels) == 1 else ""
        handles.append(break_mark(f"break{where}"))
    if has_gaps:
        white = {**square, "markerfacecolor": "white", "markeredgecolor": "0.5"}
        handles.append(Line2D([], [], label="nothing recorded", **white, markeredgewidth=0.5))
    return handles


_MARK: dict[str, Any] = {"linestyle": "none", "marker": "v", "markersize": 3.0, "color": LOST}


def _edges(
    tables: Sequence[pd.DataFrame], against: str, first: float, last: float
) -> NDArray[np.float64]:
    """Of cells of equal length in the middle of which rows stand, but for the two at the ends.

    Those begin and end with the axis. A cell is a step long, or longer if there would be too many.
    """
    length = last - first
    if not length > 0:
        return np.array([first - 0.5, first + 0.5])
    usual = max(filter(None, (_usual_gap(table, against) for table in tables)), default=length)
    units = [1.0] if against == "step" else [_step_length(table, against) for table in tables]
    # Rows that come regularly stand at the same place of each of their cells.
    unit = min(filter(None, units), default=length / _CELLS)
    parts = min(usual / unit, (_CELLS - 1) * usual / length)
    cell = max(usual / max(int(parts + 1e-6), 1), length / (_CELLS - 1))
    between = np.arange(first + cell / 2, last - (0.5 - 1e-6) * cell, cell)
    return np.array([first, *between, last])


def _usual_gap(table: pd.DataFrame, against: str) -> float:
    """Between two rows, which steps recorded out of turn break; 0 where there is one row."""
    gaps = np.diff(np.unique(table[against].to_numpy(np.float64)))
    return float(np.quantile(gaps, 0.5, method="higher")) if len(gaps) else 0.0


def _step_length(table: pd.DataFrame, against: str) -> float:
    """How far a step goes on the axis, at least; 0 where it is not known."""
    steps = table.drop_duplicates("step").sort_values("step")
    gone = steps[against].diff() / steps["step"].diff()
    return float(gone[gone > 0].min()) if (gone > 0).any() else 0.0


def _last(panel: Panel, frame: Frame) -> float:
    """Up to where a panel has cells: its break, or its last row."""
    last = float(panel.table[frame.against].max())
    return last if panel.end is None else max(panel.end, last)


def _cells(panel: Panel, frame: Frame, shade: Shade) -> NDArray[np.float64]:
    """The worst of each row and stretch; what was not finite is beyond the scale.

    A cell for which nothing was recorded shows what was recorded next, up to half the usual gap
    before it, else the one before, up to the last or the break. What was not finite is shown where
    it was recorded alone; after it is nothing.
    """
    shape = (len(frame.rows), len(frame.edges) - 1)
    table = panel.table
    if table.empty:
        return np.full(shape, np.nan)
    stretch = frame.cells_of(table[frame.against])
    row = table["layer"].map({layer: place for place, layer in enumerate(frame.rows)})
    row = row.astype("float64").fillna(len(frame.rows) - 1).astype(int)
    assert frame.scale.vmin is not None
    assert frame.scale.vmax is not None
    values = table[shade.column].astype("float64")
    values = values.clip(frame.scale.vmin - 1, frame.scale.vmax + 1)
    cells = values.groupby([row.to_numpy(), stretch]).agg(shade.worst).unstack()
    cells = cells.reindex(index=range(shape[0]), columns=range(shape[1]))
    half = _usual_gap(table, frame.against) / 2
    if reach := int(half / (2 * (frame.edges[1] - frame.edges[0])) + 1e-6):
        cells = cells.fillna(_finite(cells.bfill(axis=1, limit=reach), frame, shade))
    cells = cells.fillna(_finite(cells.ffill(axis=1), frame, shade))
    cells.loc[:, int(frame.cells_of(_last(panel, frame))) + 1 :] = np.nan
    return cells.to_numpy(np.float64)


def _finite(cells: pd.DataFrame, frame: Frame, shade: Shade) -> pd.DataFrame:
    """Without what was not finite."""
    if shade.worst == "min":
        return cells.where(cells >= frame.scale.vmin)
    return cells.where(cells <= frame.scale.vmax)


def _set_ticks(ax: Axes, frame: Frame) -> None:
    first, last = max(float(frame.edges[0]), 0.0), float(frame.edges[-1])
    rates = MaxNLocator(4, steps=[1, 2, 2.5, 5, 10], integer=frame.against == "step")
    ticks = [x for x in rates.tick_values(first, last) if first <= x <= last]
    if frame.against == "step":
        ticks = [x for x in ticks if x == round(x)]
    write = rate_label if frame.against == "lr" else "{:.0f}".format
    ax.set_xticks(ticks, [write(x) for x in ticks])
    layers = len(frame.rows) - (None in frame.rows)
    every = max(-(-layers // 8), 1)
    places = list(range(0, layers, every))
    labels = [str(frame.rows[place]) for place in places]
    if None in frame.rows:
        places, labels = [*places, layers], [*labels, _OUTSIDE.replace(" the", "\nthe")]
    ax.set_yticks([place + 0.5 for place in places], labels)
    ax.tick_params(rotation=0)
    ax.tick_params(axis="y", length=0)
