"""The road to the break: FP16 headroom of each layer's tightest site against the learning rate."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import seaborn
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from gradlab.errors import GradlabError, unknown
from gradlab.figures.labels import rate_label
from gradlab.figures.style import (
    ONE_COLUMN,
    PAPER,
    TWO_COLUMNS,
    figure_of,
    legend_above,
    legend_over,
    paper_axes,
    paper_style,
)

_CELLS = 60
"""The most cells of a row."""

_ROW = 0.17
"""Height of a layer's row in inches."""

_MOST_ROWS = 16
"""Layers from which on a panel grows no higher."""

_BITS = seaborn.color_palette("mako", as_cmap=True).with_extremes(under="#E4501E")
"""Dark where little is left, light where much is, and bright where there was an overflow."""

_BREAK: dict[str, Any] = {"color": "black", "linewidth": 1.0, "linestyle": (0, (2, 1.5))}

_AXES = {"lr": "Learning rate", "step": "Step"}
"""What headroom is drawn against, by column."""

_OUTSIDE = "outside the layers"
"""Where embeddings, the final norm and the output are."""


@dataclass(frozen=True)
class Road:
    """What one panel shows.

    Attributes:
        tightest: A table of `gradlab.analyses.headroom.tightest_by_layer`.
        break_lr: The learning rate at the break, if the run broke.
        break_step: The step.
        seed: The run's seed, which the panel's title then says.
    """

    tightest: pd.DataFrame
    break_lr: float | None = None
    break_step: int | None = None
    seed: int | None = None

    def end(self, against: str) -> float | None:
        """Where the break is on an axis."""
        return self.break_step if against == "step" else self.break_lr


def headroom_to_break(
    tightest: pd.DataFrame, *, break_lr: float | None = None, ax: Axes | None = None
) -> Axes:
    """Bits left at the tightest site of each layer of one run: a row a layer, the first on top.

    At 0 bits a tensor holds FP16's largest number; a site that holds inf or NaN has none left
    (−inf), which has a colour of its own. A cell is the least headroom of its stretch of learning
    rates; white is a stretch without a figure. Sites outside the layers are the last row.

    Args:
        tightest: A table of `gradlab.analyses.headroom.tightest_by_layer`.
        break_lr: Marked by a vertical line.
        ax: Where to draw; a new one-column figure if None.

    Raises:
        GradlabError: The table is empty.
    """
    road = Road(tightest, break_lr)
    frame = _Frame.of([road], "lr")
    if ax is None:
        ax = paper_axes(height=0.9 + frame.height)
    with paper_style():
        _draw(ax, road, frame)
        ax.set_xlabel(_AXES["lr"])
        ax.set_ylabel("Layer")
        _bar(figure_of(ax), [ax], frame)
        legend_above(ax, _handles([road], "lr"))
    return ax


def headroom_panels(roads: Mapping[str, Road], *, against: str = "lr") -> Figure:
    """`headroom_to_break` of several runs, side by side on one scale.

    Args:
        roads: The panels by their titles.
        against: `lr`, or `step` for runs whose learning rate does not rise all the way.

    Raises:
        GradlabError: There are no runs, none has headroom, or it cannot be drawn against that.
    """
    if against not in _AXES:
        raise GradlabError(unknown("axis", against, _AXES))
    frame = _Frame.of(list(roads.values()), against)
    columns = min(len(roads), 3)
    lines = -(-len(roads) // columns)
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
        for ax, (title, road) in zip(grid.flat, roads.items(), strict=False):
            _draw(ax, road, frame)
            ax.set_title(title if road.seed is None else f"{title}, seed {road.seed}", loc="left")
        for index, ax in enumerate(grid.flat):
            ax.set_visible(index < len(roads))
            ax.tick_params(labelbottom=index + columns >= len(roads))
        figure.supxlabel(_AXES[against], fontsize=PAPER["axes.labelsize"])
        figure.supylabel("Layer", fontsize=PAPER["axes.labelsize"])
        _bar(figure, list(grid.flat), frame)
        legend_over(figure, _handles(list(roads.values()), against))
    return figure


@dataclass(frozen=True)
class _Frame:
    """What all panels share.

    Attributes:
        rows: The layers, and last None if there are sites outside them.
        edges: Of the stretches of x that are a cell each.
        scale: Of the finite bits; 0 is always in it.
        against: The column of x.
    """

    rows: Sequence[int | None]
    edges: "np.typing.NDArray[np.float64]"
    scale: Normalize
    against: str

    @classmethod
    def of(cls, roads: Sequence[Road], against: str) -> "_Frame":
        tables = [road.tightest for road in roads if len(road.tightest)]
        if not tables:
            raise GradlabError(
                "no headroom was recorded, or none that is a number: there is nothing to draw."
            )
        everything = pd.concat(tables)
        rows: list[int | None] = [
            int(layer) for layer in sorted(everything["layer"].dropna().unique())
        ]
        if everything["layer"].isna().any():
            rows.append(None)
        bits = everything["headroom_bits"]
        finite = bits[np.isfinite(bits)]
        scale = Normalize(min([0.0, *finite]), max([1.0, *finite]))
        return cls(rows, _edges([table[against] for table in tables]), scale, against)

    @property
    def height(self) -> float:
        """Of a panel, in inches."""
        return max(_ROW * min(len(self.rows), _MOST_ROWS), 0.7)

    def place(self, x: float) -> float:
        """Where a value of x is, in cells."""
        width = self.edges[1] - self.edges[0]
        return float((x - self.edges[0]) / width)


def _edges(columns: "Sequence[pd.Series[float]]") -> "np.typing.NDArray[np.float64]":
    """Stretches of equal length from 0 on, none shorter than what is usual between two rows."""
    gaps = [np.diff(np.unique(column.to_numpy(np.float64))) for column in columns]
    usual = max((float(np.median(gap)) for gap in gaps if len(gap)), default=0.0)
    last = max(float(column.max()) for column in columns)
    cells = min(round(last / usual) + 1, _CELLS) if usual > 0 else 1
    # A row stands in the middle of its cell where each has one of its own.
    margin = (last / (cells - 1) if cells > 1 else last or 1.0) / 2
    return np.linspace(-margin, last + margin, cells + 1)


def _draw(ax: Axes, road: Road, frame: _Frame) -> None:
    seaborn.heatmap(
        _cells(road.tightest, frame),
        vmin=frame.scale.vmin,
        vmax=frame.scale.vmax,
        cmap=_BITS,
        cbar=False,
        xticklabels=False,
        yticklabels=False,
        rasterized=True,  # no seams between cells in a PDF
        ax=ax,
    )
    ax.set(xlabel="", ylabel="")
    ax.grid(False)
    _set_ticks(ax, frame)
    end = road.end(frame.against)
    if end is not None:
        ax.axvline(frame.place(end), zorder=3, **_BREAK)
    if None in frame.rows:
        ax.axhline(len(frame.rows) - 1, color="white", linewidth=1.5)


def _cells(tightest: pd.DataFrame, frame: _Frame) -> pd.DataFrame:
    """The least bits of each row and stretch; what overflowed is under the scale."""
    stretch = np.digitize(tightest[frame.against].to_numpy(np.float64), frame.edges) - 1
    row = tightest["layer"].map({layer: place for place, layer in enumerate(frame.rows)})
    row = row.astype("float64").fillna(len(frame.rows) - 1).astype(int)
    assert frame.scale.vmin is not None
    bits = tightest["headroom_bits"].astype("float64").replace(-np.inf, frame.scale.vmin - 1)
    cells = bits.groupby([row.to_numpy(), stretch]).min().unstack()
    return cells.reindex(index=range(len(frame.rows)), columns=range(len(frame.edges) - 1))


def _set_ticks(ax: Axes, frame: _Frame) -> None:
    last = frame.edges[-1]
    rates = MaxNLocator(4, steps=[1, 2, 2.5, 5, 10], integer=frame.against == "step")
    ticks = [x for x in rates.tick_values(0, last) if 0 <= x <= last]
    if frame.against == "step":
        ticks = [x for x in ticks if x == round(x)]
    ax.set_xticks([frame.place(x) for x in ticks], [rate_label(x) for x in ticks])
    layers = len(frame.rows) - (None in frame.rows)
    every = max(-(-layers // 8), 1)
    places = list(range(0, layers, every))
    labels = [str(frame.rows[place]) for place in places]
    if None in frame.rows:
        places, labels = [*places, layers], [*labels, _OUTSIDE.replace(" the", "\nthe")]
    ax.set_yticks([place + 0.5 for place in places], labels)
    ax.tick_params(rotation=0)
    ax.tick_params(axis="y", length=0)


def _bar(figure: Figure, axes: Sequence[Axes], frame: _Frame) -> None:
    """The scale of bits."""
    bar = figure.colorbar(
        ScalarMappable(frame.scale, _BITS), ax=list(axes), location="right", pad=0.02, aspect=14
    )
    bar.outline.set_visible(False)
    bar.ax.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    bar.ax.tick_params(length=0)
    bar.set_label("Least headroom\n(FP16 bits)", fontsize=7)


def _handles(roads: Sequence[Road], against: str) -> list[Line2D]:
    square: dict[str, Any] = {"linestyle": "none", "marker": "s", "markersize": 5}
    color = _BITS.get_under()
    handles = [Line2D([], [], color=tuple(color), label="overflow (inf or NaN)", **square)]
    if any(road.end(against) is not None for road in roads):
        handles.append(Line2D([], [], label="break", **_BREAK))
    return handles
