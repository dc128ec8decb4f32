"""Figure 7 of the NormFormer paper: gradients relative to a baseline's, by layer and operation."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from gradlab.analyses.relative_gradients import summarise_relative
from gradlab.errors import GradlabError, unknown
from gradlab.figures.labels import plain_label
from gradlab.figures.style import (
    ONE_COLUMN,
    PAPER,
    TWO_COLUMNS,
    figure_of,
    looks,
    paper_axes,
    paper_style,
)
from gradlab.models.presets import ABLATIONS, ARCHITECTURES

RATIOS: Colormap = seaborn.diverging_palette(250, 30, s=90, l=42, as_cmap=True)
"""Blue below 1, orange above, and the darker the further: half and twice are equally strong."""

_MISSING = "0.7"
"""Grey of a cell without a ratio, which no ratio has: near 1 they are almost white."""

_DEEP = 8
"""Layers up to which one column has room for the numbers."""

_ROW = 0.155
"""Height of a row of cells in inches."""

_LEAST = 1.5
"""Least height of a figure in inches: that of the words beside the scale."""

_NUMBER = 5.5
"""Size of the numbers in the cells, in points."""

_TICKS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1 / 1.5, 1 / 1.25, 1, 1.25, 1.5, 2, 4, 8, 16)


def relative_gradient(
    relative: pd.DataFrame,
    *,
    arch: str | None = None,
    window: str = "early",
    ax: Axes | None = None,
) -> Axes:
    """The ratio of an architecture's gradients to the baseline's: a row an op, a column a layer.

    A cell is the geometric mean over seeds, on a logarithmic scale of colours centred on 1, with
    its number where there is room. A star in its corner says that it is distinguished from 1: its
    95 % interval excludes 1 (of one seed there are no intervals, and the label says so). A cell
    without a ratio is grey. Operations that the baseline does not have are not there.

    Args:
        relative: A table of `gradlab.analyses.relative_gradients.relative_gradients`.
        arch: The architecture; the table's first if None.
        window: `early` or `late`.
        ax: Where to draw; a new figure if None, of one column, or of two for more than 8 layers.

    Raises:
        GradlabError: The table has no such architecture or window, or no ratio in it.
    """
    rows = _rows(relative, window)
    architectures = list(pd.unique(rows["arch"]))
    if arch is not None and arch not in architectures:
        raise GradlabError(unknown("architecture", arch, architectures))
    arch = architectures[0] if arch is None else arch
    here = rows[rows["arch"] == arch]
    ops = list(pd.unique(here["op"]))
    if ax is None:
        ax = paper_axes(_width(rows), max(0.9 + _ROW * len(ops), _LEAST))
    with paper_style():
        scale = _scale(here)
        _draw(ax, here, ops, scale)
        ax.set_title(_title(here), loc="left")
        ax.set_xlabel(_label(here))
        _bar(figure_of(ax), [ax], scale, here)
    return ax


def relative_panels(relative: pd.DataFrame, *, window: str = "early") -> Figure:
    """`relative_gradient` of every architecture on one scale, two side by side where they fit.

    Raises:
        GradlabError: As `relative_gradient`.
    """
    rows = _rows(relative, window)
    panels = [here for _, here in rows.groupby("arch", sort=False)]
    ops = list(pd.unique(rows["op"]))
    columns = 2 if len(panels) > 2 and _width(rows) == ONE_COLUMN else 1
    lines = -(-len(panels) // columns)
    with paper_style():
        figure, grid = plt.subplots(
            lines,
            columns,
            figsize=(columns * _width(rows), max(0.65 + (0.3 + _ROW * len(ops)) * lines, _LEAST)),
            sharex=True,
            sharey=True,
            squeeze=False,
            layout="constrained",
        )
        scale = _scale(rows)
        axes = list(grid.flat)
        for ax, here in zip(axes, panels, strict=False):
            _draw(ax, here, ops, scale)
            ax.set_title(_title(here), loc="left")
        for index, ax in enumerate(axes):
            ax.set_visible(index < len(panels))
            ax.tick_params(labelbottom=index + columns >= len(panels))
        figure.supxlabel(_label(rows), fontsize=PAPER["axes.labelsize"])
        _bar(figure, axes, scale, rows)
    return figure


def _rows(relative: pd.DataFrame, window: str) -> pd.DataFrame:
    """The summary of a window."""
    if window not in set(relative["window"]):
        raise GradlabError(unknown("window", window, pd.unique(relative["window"])))
    rows = summarise_relative(relative[relative["window"] == window])
    if not rows["pairs"].any():
        raise GradlabError("no gradient has a finite ratio to the baseline's.")
    return rows


def _width(rows: pd.DataFrame) -> float:
    return ONE_COLUMN if rows["n_layers"].max() <= _DEEP else TWO_COLUMNS


def _title(rows: pd.DataFrame) -> str:
    arch, baseline, seeds = rows["arch"].iloc[0], rows["baseline"].iloc[0], int(rows["pairs"].max())
    style = looks([baseline, arch])
    # A run of a loop of the user's own goes by its name, and nobody knows its seed.
    count = f", {seeds} seed{'s' * (seeds > 1)}" if _is_ours(arch) else ""
    return f"{style[arch].label} / {style[baseline].label}{count}"


def _is_ours(arch: str) -> bool:
    return arch in ARCHITECTURES or arch in ABLATIONS


def _label(rows: pd.DataFrame) -> str:
    """Of the layers, and of the stars."""
    places = rows["arch"].nunique() * rows["op"].nunique() * int(rows["n_layers"].max())
    grey = "; grey: no ratio" if rows["ratio"].notna().sum() < places else ""
    if rows["pairs"].max() < 2:
        one = "one seed" if _is_ours(rows["arch"].iloc[0]) else "one run of each"
        return f"Layer\n{one}: no intervals{grey}"
    return f"Layer\n★ distinguished from 1 (95 % interval){grey}"


def _scale(rows: pd.DataFrame) -> Normalize:
    """Of the logarithms: as far below 1 as above it, and never for noise of a few per cent only."""
    logs = np.log(rows["ratio"].dropna())
    furthest = max(float(logs.abs().max()), math.log(1.25))
    return Normalize(-furthest, furthest)


def _draw(ax: Axes, rows: pd.DataFrame, ops: Sequence[str], scale: Normalize) -> None:
    """One panel, with a row for each op whether or not the architecture has it."""
    n_layers = int(rows["n_layers"].max())
    ratios = rows.pivot(index="op", columns="layer", values="ratio")
    ratios = ratios.reindex(index=list(ops), columns=range(n_layers))
    cells = ratios.to_numpy(np.float64)
    texts = np.array([[_number(ratio) if ratio > 0 else "" for ratio in row] for row in cells])
    seaborn.heatmap(
        np.log(cells),
        vmin=scale.vmin,
        vmax=scale.vmax,
        cmap=RATIOS,
        annot=texts if _numbers_fit(ax, texts) else None,
        fmt="",
        annot_kws={"fontsize": _NUMBER, "va": "center_baseline"},
        linewidths=0.5,
        cbar=False,
        xticklabels=False,
        yticklabels=[plain_label(op) for op in ops],
        ax=ax,
    )
    for text in ax.texts:  # seaborn's own choice is white on colours that are lighter than half
        layer, row = map(int, text.get_position())
        text.set_color(_ink(cells[row, layer], scale))
    ax.set_facecolor(_MISSING)
    ax.grid(False)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0, rotation=0)
    layers = (
        range(n_layers)
        if n_layers <= 12
        else MaxNLocator(10, integer=True).tick_values(0, n_layers - 1)
    )
    layers = [int(layer) for layer in layers if layer < n_layers]
    ax.set_xticks([layer + 0.5 for layer in layers], [str(layer) for layer in layers])
    _mark(ax, rows[rows["distinguished"].astype(bool)], ops, scale)


def _mark(ax: Axes, rows: pd.DataFrame, ops: Sequence[str], scale: Normalize) -> None:
    """A star in the corner of each cell."""
    for _, cell in rows.iterrows():
        ax.plot(
            [cell["layer"] + 0.87],
            [list(ops).index(cell["op"]) + 0.22],
            linestyle="none",
            marker="*",
            markersize=3.4,
            markeredgewidth=0,
            color=_ink(cell["ratio"], scale),
        )


def _ink(ratio: float, scale: Normalize) -> str:
    """Dark or white, whichever can be read on a cell's colour."""
    dark = float(np.dot(RATIOS(scale(math.log(ratio)))[:3], (0.299, 0.587, 0.114))) < 0.5
    return "white" if dark else "0.15"


def _numbers_fit(ax: Axes, texts: "np.typing.NDArray[np.str_]") -> bool:
    """Whether a cell has room for the widest number."""
    # Before the layout is made, as far as it can be known: labels and scale take 1.3 inches.
    width = figure_of(ax).get_figwidth()
    room = min(width - 1.3, 0.95 * ax.get_position().width * width) * 72 / texts.shape[1]
    return bool(1.1 * max(map(_ems, texts.flat)) * _NUMBER <= room)


def _ems(number: str) -> float:
    """How wide a number is, in ems: a point is half as wide as a digit."""
    return 0.636 * (len(number) - number.count(".") / 2)


def _number(ratio: float) -> str:
    """A ratio in three digits, or what is under 0.1 in two: 0.62, 1.50, 13.1, 131."""
    if 0.01 <= ratio < 9.995:
        return f"{ratio:.2f}"
    if 9.995 <= ratio < 999.5:
        return f"{ratio:.1f}" if ratio < 99.95 else f"{ratio:.0f}"
    return f"{ratio:.0e}"


def _bar(figure: Figure, axes: Sequence[Axes], scale: Normalize, rows: pd.DataFrame) -> None:
    """The scale of colours, its ticks ratios."""
    options: dict[str, Any] = {"location": "right", "aspect": 18 * len(axes), "pad": 0.02}
    bar = figure.colorbar(ScalarMappable(scale, RATIOS), ax=list(axes), **options)
    assert scale.vmax is not None
    inside = [tick for tick in _TICKS if abs(math.log(tick)) <= scale.vmax * 1.001]
    for power in (1, 2):  # whole powers of two are enough, or every other
        if len(inside) > 5:
            inside = [tick for tick in inside if math.log2(tick) % power == 0]
    bar.ax.yaxis.set_major_locator(FixedLocator([math.log(tick) for tick in inside]))
    bar.ax.yaxis.set_minor_locator(NullLocator())
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda log, _: _tick(math.exp(log))))
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=PAPER["ytick.labelsize"])
    first, last = rows["first"].iloc[0], rows["last"].iloc[0]
    bar.set_label(f"Gradient L1 / loss,\nratio, steps {first}–{last}", fontsize=7)


def _tick(ratio: float) -> str:
    inverse = 1 / ratio
    whole = ratio < 1 and abs(inverse - round(inverse)) < 1e-9
    return f"1/{inverse:.0f}" if whole else f"{ratio:.2g}"
