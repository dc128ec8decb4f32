"""Figure 6 of the NormFormer paper: the learned factor on the residual, by depth."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from gradlab.analyses.scales import summarise_lambda
from gradlab.errors import GradlabError, unknown
from gradlab.figures.labels import plain_label
from gradlab.figures.style import (
    DASHES,
    draw_range,
    legend_above,
    looks,
    paper_axes,
    paper_style,
    range_of_seeds,
)

_MOST_MARKERS = 12
"""Markers on a line; of deeper models, some layers are marked."""


_RESIDUALS = {"ffn_residual": "FFN residual", "attn_residual": "attention residual"}


def lambda_resid_by_depth(
    lambdas: pd.DataFrame, *, residual: str = "ffn_residual", ax: Axes | None = None
) -> Axes:
    """Mean λ_resid of each layer against its depth: a colour an architecture, a dash a size.

    The line is the mean over seeds, the band their range. Below 1, a layer weighs what comes from
    the layers before it down. From the fifth size on, markers are hollow.

    Args:
        lambdas: A table of `gradlab.analyses.scales.lambda_by_depth`.
        residual: `ffn_residual`, or `attn_residual` in architectures that scale both.
        ax: Where to draw; a new one-column figure if None.

    Raises:
        GradlabError: The table has no such residual, or no finite mean of it.
    """
    known = pd.unique(lambdas["residual"])
    if residual not in known:
        raise GradlabError(unknown("residual", residual, known))
    rows = lambdas[(lambdas["residual"] == residual) & lambdas["mean"].notna()]
    if rows.empty:
        raise GradlabError("no λ_resid is finite: there is nothing to draw.")
    means = summarise_lambda(rows)
    style = looks(means["arch"])
    sizes = list(pd.unique(means["size"]))
    if ax is None:
        ax = paper_axes()
    with paper_style():
        ax.axhline(1, color="0.6", linewidth=0.8, zorder=1)
        for (size, arch), line in means.groupby(["size", "arch"], sort=False):
            look, drawn = style[str(arch)], _of_size(sizes.index(size))
            face: Any = {"markerfacecolor": "white"} if drawn["hollow"] else {}
            draw_range(ax, line["depth"], line["min"], line["max"], look.color)
            ax.plot(
                line["depth"],
                line["mean"],
                color=look.color,
                linestyle=drawn["dashes"],
                marker=look.marker,
                linewidth=1.0,
                markersize=3.5,
                markevery=-(-len(line) // _MOST_MARKERS),
                markeredgecolor=look.color if drawn["hollow"] else "white",
                markeredgewidth=0.6,
                zorder=3,
                **face,
            )
        ax.set_xlim(-0.03, 1.03)
        ax.margins(y=0.1)
        ax.ticklabel_format(axis="y", useOffset=False)
        ax.set_xlabel("Depth (layer / layers)")
        ax.set_ylabel(f"Mean λ of the {_RESIDUALS.get(residual, residual)}")
        handles = [
            Line2D(
                [],
                [],
                color=look.color,
                marker=look.marker,
                markersize=3.5,
                linewidth=1.0,
                label=look.label,
            )
            for look in style.values()
        ]
        if len(sizes) > 1:
            handles += [_size_line(size, _of_size(index)) for index, size in enumerate(sizes)]
        if rows.groupby(["size", "arch"])["seed"].nunique().max() > 1:
            handles.append(range_of_seeds())
        legend_above(ax, handles)
    return ax


def _of_size(index: int) -> dict[str, Any]:
    return {"dashes": DASHES[index % len(DASHES)], "hollow": index >= len(DASHES)}


def _size_line(size: str, drawn: dict[str, Any]) -> Line2D:
    marker: dict[str, Any] = {}
    if drawn["hollow"]:
        marker = {"marker": "o", "markerfacecolor": "white", "markersize": 3.5}
    return Line2D([], [], color="0.4", linestyle=drawn["dashes"], label=plain_label(size), **marker)
