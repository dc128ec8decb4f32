"""How the mean |g| of each layer's weights is distributed, over weights and steps."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from gradlab.errors import GradlabError
from gradlab.figures.stability import scale_note, set_value_axis
from gradlab.figures.style import (
    TWO_COLUMNS,
    asides,
    layer_axis,
    legend_above,
    looks,
    paper_axes,
    paper_style,
)

_SPANS = (("low", "high", 0.6, 0.7), ("q05", "q95", 0.3, 0.35), ("q25", "q75", 0.75, 0.8))
"""From which quantile to which, how opaque, and how wide a bar is as a share of its room."""


def gradient_size_by_layer(sizes: pd.DataFrame, *, title: str = "", ax: Axes | None = None) -> Axes:
    """Bars of quantiles against the layer, those of several runs beside each other.

    The wide bar holds the middle half of mean |g| over weights and recorded steps, the light one
    the middle nine tenths, the line all; the white stroke is the median. A cross at the bottom
    stands under layers with gradients of 0 throughout, which a logarithmic axis has no place for.

    Args:
        sizes: Tables of `gradlab.analyses.layer_courses.gradient_sizes` with a column arch, one
            below the other.
        title: Above the axes.
        ax: Where to draw; a new two-column figure if None.

    Raises:
        GradlabError: No gradient is finite and other than 0.
    """
    known = sizes[sizes["entries"] > 0]
    if known.empty:
        raise GradlabError("no gradient is finite and other than 0: there is nothing to draw.")
    style = looks(sizes["arch"])
    aside = asides(list(style), 0.8 / len(style), most=0.8)
    n_layers = int(sizes["layer"].max()) + 1
    if ax is None:
        ax = paper_axes(TWO_COLUMNS, 2.6)
    # A layer's room in points, shared by the runs beside each other.
    room = 72 * 0.85 * TWO_COLUMNS / n_layers * min(0.8 / len(style), 0.5)
    with paper_style():
        set_value_axis(ax, pd.concat([known["low"], known["high"]]))
        for arch, look in style.items():
            rows = known[known["arch"] == arch]
            x = rows["layer"] + aside[arch]
            for low, high, alpha, share in _SPANS:
                width = 0.8 if low == "low" else max(min(share * room, 14.0), 0.8)
                bars: dict[str, Any] = {"color": look.color, "alpha": alpha, "linewidth": width}
                ax.vlines(x, rows[low], rows[high], zorder=2, **bars)
            size = max(min(room, 14.0), 1.5)
            ax.plot(x, rows["median"], markersize=size, **_MEDIAN)
            dead = sizes[(sizes["arch"] == arch) & (sizes["zeros"] > 0)]
            feet = np.full(len(dead), 0.02)
            crosses = {**_ZERO, "color": look.color, "transform": ax.get_xaxis_transform()}
            if len(dead):  # a line without points would widen the layout
                ax.plot(dead["layer"] + aside[arch], feet, **crosses)
        layer_axis(ax, n_layers)
        ax.set_xlabel("Layer")
        ax.set_ylabel(f"Mean |g| of a weight{scale_note(ax)}")
        if title:
            ax.set_title(title, loc="left", pad=16)
        legend_above(ax, _handles(sizes, len(style)), columns=6)
    return ax


_MEDIAN: dict[str, Any] = {"linestyle": "none", "marker": "_", "markeredgewidth": 1.0}
_MEDIAN |= {"color": "white", "zorder": 4}

_ZERO: dict[str, Any] = {"linestyle": "none", "marker": "x", "markersize": 3.5, "clip_on": False}


def _handles(sizes: pd.DataFrame, runs: int) -> list[Line2D]:
    style = looks(sizes["arch"])
    square: dict[str, Any] = {"linestyle": "none", "marker": "s", "markersize": 5}
    color = "0.3" if runs > 1 else next(iter(style.values())).color
    handles = [
        Line2D([], [], color=look.color, label=look.label, **square)
        for look in style.values()
        if runs > 1
    ]
    handles += [
        Line2D([], [], color=color, alpha=0.75, label="middle half", **square),
        Line2D([], [], color=color, alpha=0.3, label="middle nine tenths", **square),
        Line2D([], [], color=color, alpha=0.6, linewidth=0.8, label="all"),
    ]
    if (sizes["zeros"] > 0).any():
        handles.append(Line2D([], [], label="some are 0 throughout", **{**_ZERO, "color": "0.3"}))
    return handles
