"""Figure 4 of the NormFormer paper: what the learned scales have become, layer by layer."""

from collections.abc import Mapping
from textwrap import fill
from typing import Any

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from gradlab.analyses.scales import FIGURE_OPS, summarise_scales
from gradlab.errors import GradlabError, unknown
from gradlab.figures.labels import plain_label
from gradlab.figures.style import (
    ONE_COLUMN,
    TWO_COLUMNS,
    Look,
    layer_axis,
    legend_above,
    legend_over,
    looks,
    paper_axes,
    paper_style,
)

OP_LABELS: Mapping[str, str] = {
    "ffn_mid_norm": "FFN LN γ",
    "attn_out_norm": "Post-attention LN γ",
    "head_scale": "Head scale γ",
}

_BOX = 0.33
"""Opacity of a box."""

_FEW = 16
"""Layers up to which the seeds' points have their full size."""

_HALF = 0.3
"""Half the width of a box, in layers."""


def scale_by_layer(
    distributions: pd.DataFrame,
    *,
    op: str = "ffn_mid_norm",
    arch: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """The entries of an op's learned scale in each layer, as boxes.

    A box holds the middle half of a layer's entries, its line is their median, its whiskers hold
    90 % of them. Over several seeds, each of these is the mean of the seeds' (`summarise_scales`),
    and the points are the seeds' medians. The grey line is 1, where every scale begins.

    Args:
        distributions: A table of `gradlab.analyses.scales.scale_distributions`.
        op: The op.
        arch: The architecture; the table's first if None.
        ax: Where to draw; a new one-column figure if None.

    Raises:
        GradlabError: The table has no such op or architecture, or no finite entry of it.
    """
    rows = _finite(distributions)
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
        legend_above(ax, _handles(here, look.color))
    return ax


def scale_panels(distributions: pd.DataFrame) -> Figure:
    """`scale_by_layer` of every op, a row of panels an architecture; an op has one scale.

    Raises:
        GradlabError: No entry in the table is finite.
    """
    rows = _finite(distributions)
    style = looks(rows["arch"])
    present = list(pd.unique(rows["op"]))
    ops = [op for op in FIGURE_OPS if op in present]
    ops += [op for op in present if op not in ops]
    width = TWO_COLUMNS if len(ops) > 1 else ONE_COLUMN
    with paper_style():
        figure, grid = plt.subplots(
            len(style),
            len(ops),
            figsize=(width, 0.7 + 1.5 * len(style)),
            sharex=True,
            sharey="col",
            squeeze=False,
            layout="constrained",
        )
        for line, (arch, look) in zip(grid, style.items(), strict=True):
            for ax, op in zip(line, ops, strict=True):
                here = rows[(rows["arch"] == arch) & (rows["op"] == op)]
                if here.empty:
                    ax.set_axis_off()
                else:
                    _draw(ax, here, look)
            line[0].set_ylabel(fill(look.label, 16) if len(style) > 1 else "Learned scale")
            # Axes that are off have no label either.
            line[0].set_axis_on()
        for column, op in enumerate(ops):
            grid[0, column].set_title(_op_label(op), loc="left")
            grid[-1, column].set_xlabel("Layer")
        one = next(iter(style.values())).color
        legend_over(figure, _handles(rows, one if len(style) == 1 else "0.3"))
    return figure


def _finite(distributions: pd.DataFrame) -> pd.DataFrame:
    """The rows that have a distribution."""
    rows = distributions[distributions["median"].notna()]
    if rows.empty:
        raise GradlabError("no entry of a learned scale is finite: there is nothing to draw.")
    return rows


def _op_label(op: str) -> str:
    return OP_LABELS.get(op, plain_label(op))


def _draw(ax: Axes, rows: pd.DataFrame, look: Look) -> None:
    """The boxes of one op of one architecture."""
    layers = summarise_scales(rows)
    x = layers["layer"].to_numpy(int)
    ax.axhline(1, color="0.6", linewidth=0.8, zorder=1)
    ax.vlines(x, layers["q05"], layers["q95"], color=look.color, linewidth=0.8, zorder=2)
    heights = layers["q75"] - layers["q25"]
    ax.bar(x, heights, 2 * _HALF, layers["q25"], color="white", linewidth=0, zorder=2.2)
    ax.bar(x, heights, 2 * _HALF, layers["q25"], color=look.color, alpha=_BOX, lw=0, zorder=2.4)
    ax.hlines(layers["median"], x - _HALF, x + _HALF, color=look.color, linewidth=1.3, zorder=3)
    if rows["seed"].nunique() > 1:
        ax.plot(
            rows["layer"],
            rows["median"],
            linestyle="none",
            marker="o",
            markersize=2 if len(layers) <= _FEW else 1.2,
            color=look.color,
            markeredgewidth=0,
            zorder=4,
        )
    layer_axis(ax, int(rows["n_layers"].max()))
    ax.ticklabel_format(axis="y", useOffset=False)


def _handles(rows: pd.DataFrame, color: str) -> list[Line2D]:
    box = Line2D([], [], color=color, alpha=_BOX, linewidth=5, label="middle half")
    box.set_solid_capstyle("butt")
    handles = [
        Line2D([], [], color=color, linewidth=1.3, label="median"),
        box,
        Line2D([], [], color=color, linewidth=0.8, label="middle 90 %"),
        Line2D([], [], color="0.6", linewidth=0.8, label="initial value"),
    ]
    if rows["seed"].nunique() > 1:
        point: Any = {"linestyle": "none", "marker": "o", "markersize": 2, "markeredgewidth": 0}
        handles.insert(1, Line2D([], [], color=color, label="median of a seed", **point))
    return handles
