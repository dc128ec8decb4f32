"""The road to the break: FP16 headroom of each layer's tightest site against the learning rate."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

from gradlab.errors import GradlabError, unknown
from gradlab.figures.labels import rate_label
from gradlab.figures.style import (
    ONE_COLUMN,
    TWO_COLUMNS,
    legend_above,
    legend_over,
    paper_axes,
    paper_style,
)

_STRIP = 0.14
"""Share of the axis below the range of bits, where overflows are marked."""

_LEGEND_LAYERS = 8

_AXES = {"lr": "Learning rate", "step": "Step"}
"""What headroom is drawn against, by column."""


@dataclass(frozen=True)
class Road:
    """What one panel shows.

    Attributes:
        tightest: A table of `gradlab.analyses.headroom.tightest_by_layer`.
        break_lr: The learning rate at the break, if the run broke.
        break_step: The step.
    """

    tightest: pd.DataFrame
    break_lr: float | None = None
    break_step: int | None = None

    def end(self, against: str) -> float | None:
        """Where the break is on an axis."""
        return self.break_step if against == "step" else self.break_lr


def headroom_to_break(
    tightest: pd.DataFrame, *, break_lr: float | None = None, ax: Axes | None = None
) -> Axes:
    """Bits left at the tightest site of each layer, a line a layer, early layers dark.

    At 0 bits a tensor holds FP16's largest number. A site that holds inf or NaN has none left
    (−inf): it is a cross in the strip at the bottom, where each layer has its own height. Sites
    outside the blocks are a dashed grey line.

    Args:
        tightest: A table of `gradlab.analyses.headroom.tightest_by_layer`.
        break_lr: Marked by a vertical line.
        ax: Where to draw; a new one-column figure if None.

    Raises:
        GradlabError: The table is empty.
    """
    looks = _looks(tightest)
    if ax is None:
        ax = paper_axes()
    with paper_style():
        _draw(ax, Road(tightest, break_lr), looks, _Frame.of(tightest, "lr"))
        ax.set_xlabel(_AXES["lr"])
        ax.set_ylabel("FP16 headroom (bits)")
        legend_above(ax, _handles(looks), columns=5)
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
    everything = pd.concat([road.tightest for road in roads.values()]) if roads else pd.DataFrame()
    looks = _looks(everything)
    frame = _Frame.of(everything, against)
    columns = min(len(roads), 3)
    lines = -(-len(roads) // columns)
    width = ONE_COLUMN if columns == 1 else TWO_COLUMNS
    with paper_style():
        figure, grid = plt.subplots(
            lines,
            columns,
            figsize=(width, 0.4 + 2.0 * lines),
            sharex=True,
            sharey=True,
            squeeze=False,
            layout="constrained",
        )
        for ax, (title, road) in zip(grid.flat, roads.items(), strict=False):
            _draw(ax, road, looks, frame)
            ax.set_title(title, loc="left")
        for index, ax in enumerate(grid.flat):
            ax.set_visible(index < len(roads))
            ax.tick_params(labelbottom=index + columns >= len(roads))
        figure.supxlabel(_AXES[against], fontsize=8)
        figure.supylabel("FP16 headroom (bits)", fontsize=8)
        legend_over(figure, _handles(looks))
    return figure


def _looks(tightest: pd.DataFrame) -> dict[int | None, dict[str, Any]]:
    """Sequential colours from dark to light over depth, and a look for what is outside."""
    if tightest.empty:
        raise GradlabError(
            "no headroom was recorded, or none that is a number: there is nothing to draw."
        )
    layers = [int(layer) for layer in sorted(tightest["layer"].dropna().unique())]
    shades = mpl.colormaps["viridis"](np.linspace(0.0, 0.88, max(len(layers), 2)))
    looks: dict[int | None, dict[str, Any]] = {
        layer: {"color": tuple(shade), "linestyle": "-"}
        for layer, shade in zip(layers, shades, strict=False)
    }
    if tightest["layer"].isna().any():
        looks[None] = {"color": "0.6", "linestyle": (0, (3, 1.2))}
    return looks


@dataclass(frozen=True)
class _Frame:
    """The limits of a panel: least and most bits (0 always between them) and the end of x."""

    low: float
    high: float
    against: str
    last: float

    @classmethod
    def of(cls, tightest: pd.DataFrame, against: str) -> "_Frame":
        bits = tightest["headroom_bits"]
        finite = [float(bit) for bit in bits[np.isfinite(bits)]]
        last = float(tightest[against].max()) or 1.0
        return cls(min([0.0, *finite]), max([1.0, *finite]), against, last)

    @property
    def strip(self) -> float:
        """Height of the strip for overflows, below the least bits."""
        return _STRIP * (self.high - self.low)


def _draw(
    ax: Axes, road: Road, looks: Mapping[int | None, Mapping[str, Any]], frame: _Frame
) -> None:
    low, strip = frame.low, frame.strip
    _set_axes(ax, frame)
    end = road.end(frame.against)
    if end is not None:
        ax.axvline(end, color="0.2", linewidth=0.8, linestyle=(0, (2, 2)), zorder=1)
    for index, (layer, look) in enumerate(looks.items()):
        rows = road.tightest[_of(road.tightest, layer)]
        finite = rows[np.isfinite(rows["headroom_bits"])]
        depth = 2.5 if layer is None else 3
        ax.plot(
            finite[frame.against],
            finite["headroom_bits"],
            linewidth=1.0,
            marker="o" if len(finite) == 1 else "None",
            markersize=3,
            zorder=depth,
            **look,
        )
        lost = rows[np.isneginf(rows["headroom_bits"])]
        height = low - strip * (index + 0.5) / len(looks)
        ax.plot(
            lost[frame.against],
            np.full(len(lost), height),
            linestyle="none",
            marker="x",
            markersize=2.5,
            markeredgewidth=0.8,
            color=look["color"],
            zorder=4,
        )


def _set_axes(ax: Axes, frame: _Frame) -> None:
    bottom = frame.low - frame.strip
    ax.set_xlim(0, 1.04 * frame.last)
    ax.set_ylim(bottom, frame.high + 0.04 * (frame.high - frame.low))
    ticks = MaxNLocator(6, integer=True).tick_values(frame.low, frame.high)
    ax.yaxis.set_major_locator(FixedLocator([t for t in ticks if frame.low <= t <= frame.high]))
    ax.xaxis.set_major_locator(
        MaxNLocator(5, steps=[1, 2, 2.5, 5, 10], integer=frame.against == "step")
    )
    ax.xaxis.set_major_formatter(FuncFormatter(lambda rate, _: rate_label(rate)))
    ax.axhline(0, color="0.2", linewidth=0.8, zorder=2)
    ax.axhspan(bottom, frame.low, color="0.95", linewidth=0, zorder=0)
    ax.text(
        0.02,
        frame.low - frame.strip / 2,
        "overflow",
        transform=ax.get_yaxis_transform(),
        va="center",
        color="0.35",
        fontsize=6.5,
    )


def _of(tightest: pd.DataFrame, layer: int | None) -> "pd.Series[bool]":
    if layer is None:
        return tightest["layer"].isna()
    return tightest["layer"].eq(layer).fillna(False).astype(bool)


def _handles(looks: Mapping[int | None, Mapping[str, Any]]) -> list[Line2D]:
    """A line for each layer, or for some of them, evenly spaced, where there are many."""
    layers = [layer for layer in looks if layer is not None]
    if len(layers) > _LEGEND_LAYERS:
        places = np.linspace(0, len(layers) - 1, _LEGEND_LAYERS).round().astype(int)
        layers = [layers[place] for place in places]
    handles = [
        Line2D([], [], label=str(layer) if index else f"layer {layer}", **looks[layer])
        for index, layer in enumerate(layers)
    ]
    if None in looks:
        handles.append(Line2D([], [], label="outside", **looks[None]))
    return handles
