"""Figure 4 of the NormFormer paper: what the learned scales have become, layer by layer."""

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
import seaborn
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from gradlab.analyses.scales import FIGURE_OPS
from gradlab.errors import GradlabError, unknown
from gradlab.figures.labels import plain_label
from gradlab.figures.style import (
    ONE_COLUMN,
    PAPER,
    TWO_COLUMNS,
    Look,
    asides,
    layer_axis,
    legend_above,
    legend_over,
    looks,
    paper_axes,
    paper_style,
    run_label,
)

OP_LABELS: Mapping[str, str] = {
    "ffn_mid_norm": "FFN LN γ",
    "attn_out_norm": "Post-attention LN γ",
    "head_scale": "Head scale γ",
}

_FEW = 16
"""Entries of a layer in a run up to which they are drawn themselves: a quantile of four is none."""

_MOST_COLUMNS = 4
"""The most panels side by side."""

_WIDTH = 0.8
"""Of a layer's boxes, in layers."""


def scale_by_layer(
    entries: pd.DataFrame,
    *,
    op: str = "ffn_mid_norm",
    arch: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """The entries of an op's learned scale in each layer, those of all seeds together.

    Up to 16 entries a layer and run are points, as head scales are, each seed's beside the others'.
    More are letter-value boxes: the widest holds the middle half of the entries, the next ones
    three quarters, seven eighths, and so on while there are enough beyond them; what is left are
    circles. The line is the median, the grey one 1, where every scale begins.

    Args:
        entries: A table of `gradlab.analyses.scales.scale_entries`.
        op: The op.
        arch: The architecture; the table's first if None.
        ax: Where to draw; a new one-column figure if None.

    Raises:
        GradlabError: The table has no such op or architecture, or no finite entry of it.
    """
    rows = _finite(entries)
    for kind, name in (("op", op), ("architecture", arch)):
        known = pd.unique(rows["op" if kind == "op" else "arch"])
        if name is not None and name not in known:
            raise GradlabError(unknown(kind, name, known))
    here = rows[rows["op"] == op]
    arch = here["arch"].iloc[0] if arch is None else arch
    here = here[here["arch"] == arch]
    if here.empty:
        raise GradlabError(f"{arch} has no finite {op}: there is nothing to draw.")
    look = looks(rows["arch"])[arch]
    if ax is None:
        ax = paper_axes()
    with paper_style():
        _draw(ax, here, look)
        ax.set_xlabel("Layer")
        ax.set_ylabel(_op_label(op))
        legend_above(ax, _handles([here], look.color))
    return ax


def scale_panels(entries: pd.DataFrame) -> Figure:
    """`scale_by_layer` of every op, a row of panels an architecture, all on one scale.

    More than four ops take several rows.

    Raises:
        GradlabError: No entry in the table is finite.
    """
    rows = _finite(entries)
    style = looks(rows["arch"])
    present = list(pd.unique(rows["op"]))
    ops = [op for op in FIGURE_OPS if op in present]
    ops += [op for op in present if op not in ops]
    width = TWO_COLUMNS if len(ops) > 1 else ONE_COLUMN
    lines = -(-len(ops) // _MOST_COLUMNS)
    columns = -(-len(ops) // lines)
    panels = [(arch, ops[columns * line :][:columns]) for arch in style for line in range(lines)]
    with paper_style():
        figure, grid = plt.subplots(
            len(panels),
            columns,
            figsize=(width, 0.9 + 1.5 * len(panels)),
            sharex=True,
            sharey=True,
            squeeze=False,
            layout="constrained",
        )
        for index, (axes, (arch, here)) in enumerate(zip(grid, panels, strict=True)):
            look = style[arch]
            for ax, op in zip_longest(axes, here):
                of_panel = rows[(rows["arch"] == arch) & (rows["op"] == op)]
                if of_panel.empty:
                    ax.set_axis_off()
                else:
                    _draw(ax, of_panel, look)
                if op is not None and (index == 0 or lines > 1):
                    ax.set_title(_op_label(op), loc="left")
            axes[0].set_ylabel(fill(look.label, 16) if len(style) > 1 else "Learned scale")
            # Axes that are off have no label either.
            axes[0].set_axis_on()
        for ax in grid[-1]:
            ax.set_xlabel("Layer")
        one = next(iter(style.values())).color
        drawn = [panel for _, panel in rows.groupby(["arch", "op"])]
        title = _title(rows, list(style.values()))
        figure.suptitle(title, fontsize=PAPER["axes.titlesize"], x=0.01, ha="left")
        handles = _handles(drawn, one if len(style) == 1 else "0.3")
        legend_over(figure, handles, loc="outside lower left")
    return figure


def _title(rows: pd.DataFrame, style: Sequence[Look]) -> str:
    """What is drawn, at which step, and of how many seeds."""
    title = f"Entries of the learned scales at step {rows['step'].max()}"
    seeds = rows["seed"].dropna().unique()
    many = f"{len(seeds)} seeds"
    if len(style) > 1:
        return f"{title}, {many}" if len(seeds) > 1 else title
    if len(seeds) > 1:
        return f"{title}: {style[0].label}, {many}"
    return f"{title}: {run_label(style[0], int(seeds[0]) if len(seeds) else None)}"


def _finite(entries: pd.DataFrame) -> pd.DataFrame:
    """The entries that can be drawn."""
    rows: pd.DataFrame = entries[np.isfinite(entries["value"])]
    if rows.empty:
        raise GradlabError("no entry of a learned scale is finite: there is nothing to draw.")
    return rows


def _few(rows: pd.DataFrame) -> bool:
    """Whether an op of an architecture has so few entries that they are drawn themselves."""
    return bool(rows.groupby(["seed", "layer"]).size().max() <= _FEW)


def _op_label(op: str) -> str:
    return OP_LABELS.get(op, plain_label(op))


def _draw(ax: Axes, rows: pd.DataFrame, look: Look) -> None:
    """One op of one architecture."""
    ax.axhline(1, color="0.6", linewidth=0.8, zorder=1)
    shared: dict[str, Any] = {"x": "layer", "y": "value", "native_scale": True, "ax": ax}
    shared |= {"orient": "x", "color": look.color, "legend": False}
    if _few(rows):
        aside = asides(sorted(rows["seed"].unique()), 0.2, most=0.5)  # in layers
        points = rows.assign(layer=rows["layer"] + rows["seed"].map(aside))
        size = 3.5 if rows["n_layers"].max() <= 16 else 2
        seaborn.stripplot(points, jitter=False, size=size, alpha=0.7, zorder=3, **shared)
    else:
        medians: dict[str, Any] = {"color": "white", "linewidth": 1.0, "alpha": 1}
        fliers: dict[str, Any] = {"s": 3, "linewidth": 0.3, "edgecolor": look.color}
        seaborn.boxenplot(
            rows, width=_WIDTH, linewidth=0, line_kws=medians, flier_kws=fliers, **shared
        )
    layer_axis(ax, int(rows["n_layers"].max()))
    ax.ticklabel_format(axis="y", useOffset=False)
    ax.set(xlabel="", ylabel="")


def _handles(panels: Sequence[pd.DataFrame], color: str) -> list[Line2D]:
    handles: list[Line2D] = []
    square: dict[str, Any] = {"linestyle": "none", "marker": "s", "markersize": 5}
    point: dict[str, Any] = {"linestyle": "none", "marker": "o", "markersize": 3}
    if not all(map(_few, panels)):
        shades = seaborn.light_palette(color, 4)
        handles += [
            Line2D([], [], color=shades[3], label="middle half of the entries", **square),
            Line2D([], [], color=shades[2], label="¾, ⅞, … of them", **square),
        ]
    if any(map(_few, panels)):
        handles.append(Line2D([], [], color=color, alpha=0.7, label="an entry", **point))
    return [*handles, Line2D([], [], color="0.6", linewidth=0.8, label="initial value")]
