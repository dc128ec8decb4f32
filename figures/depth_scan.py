"""Where architectures stop training as they get deeper, and their gradients by layer."""

from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from gradlab.errors import GradlabError
from gradlab.figures.stability import ROW, set_value_axis
from gradlab.figures.style import (
    ONE_COLUMN,
    TWO_COLUMNS,
    legend_above,
    legend_over,
    looks,
    paper_axes,
    paper_style,
    run_label,
)


def trained_depths(scan: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """A row for each architecture and warm-up: filled where a depth trains, a cross where not.

    Hollow is where some seeds do.

    Args:
        scan: A table of `gradlab.analyses.depth_scan.depth_scan`.
        ax: Where to draw; a new one-column figure if None.

    Raises:
        GradlabError: The table is empty.
    """
    if scan.empty:
        raise GradlabError("no run of the scan has ended: there is nothing to draw.")
    style = looks(scan["arch"])
    share = scan.groupby(["arch", "warmup", "depth"], sort=False)["trains"].mean().reset_index()
    rows = list(dict.fromkeys(zip(share["arch"], share["warmup"], strict=True)))
    rows.sort(key=lambda row: list(style).index(row[0]))
    if ax is None:
        ax = paper_axes(ONE_COLUMN, 0.9 + ROW * len(rows))
    with paper_style():
        for place, (arch, warmup) in enumerate(rows):
            mine = share[(share["arch"] == arch) & (share["warmup"] == warmup)]
            color, marker = style[arch].color, style[arch].marker
            for depth, part in zip(mine["depth"], mine["trains"], strict=True):
                face = {1.0: color, 0.0: "none"}.get(float(part), "white")
                shape: Any = "x" if part == 0 else marker
                ax.plot(depth, place, ls="none", marker=shape, ms=5, mfc=face, mec=color, zorder=3)
        depths = sorted(set(scan["depth"]))
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(FixedLocator(depths))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_xticklabels([str(depth) for depth in depths])
        ax.set_yticks(range(len(rows)))
        ax.set_yticklabels(
            [f"{style[arch].label}, warm-up {warmup}" for arch, warmup in rows], fontsize=6.5
        )
        ax.set_ylim(len(rows) - 0.5, -0.5)
        ax.set_xlabel("Layers (log scale)")
        mark: dict[str, Any] = {"linestyle": "none", "color": "0.3", "markersize": 5}
        handles = [Line2D([], [], marker="o", label="trains", **mark)]
        if ((share["trains"] > 0) & (share["trains"] < 1)).any():
            handles.append(Line2D([], [], marker="o", mfc="white", label="in some seeds", **mark))
        handles.append(Line2D([], [], marker="x", label="does not", **mark))
        legend_above(ax, handles)
    return ax


def gradients_by_depth(gradients: pd.DataFrame) -> Figure:
    """Mean |g| against the layer as a share of the depth, a column for each architecture.

    Above at the first step, below after the last; a line is a depth. Of several warm-ups and seeds
    the first.

    Args:
        gradients: A table of `gradlab.analyses.depth_scan.layer_gradients`.

    Raises:
        GradlabError: No gradient is finite and other than 0.
    """
    rows = gradients[gradients["size"] > 0]
    if rows.empty:
        raise GradlabError("no gradient is finite and other than 0: there is nothing to draw.")
    rows = rows[rows["warmup"] == rows["warmup"].min()]
    rows = rows[rows["seed"] == rows["seed"].min()]
    seed, warmup = rows[["seed", "warmup"]].iloc[0]
    style = looks(rows["arch"])
    depths = sorted(set(rows["depth"]))
    colors = mpl.colormaps["viridis"].resampled(len(depths) + 1)
    with paper_style():
        figure, grid = plt.subplots(
            *(2, len(style)),
            figsize=(TWO_COLUMNS, 3.4),
            sharex=True,
            sharey=True,
            squeeze=False,
            layout="constrained",
        )
        set_value_axis(grid[0, 0], rows["size"])
        for column, (arch, look) in enumerate(style.items()):
            for ax, when in zip(grid[:, column], ("start", "end"), strict=True):
                here = rows[(rows["arch"] == arch) & (rows["when"] == when)]
                for depth, line in here.groupby("depth"):
                    x = line["layer"] / max(int(depth) - 1, 1)
                    ax.plot(x, line["size"], color=colors(depths.index(depth)), linewidth=1.0)
            grid[0, column].set_title(run_label(look, seed), loc="left", fontsize=7, pad=3)
            grid[1, column].set_xlabel("Layer / depth", fontsize=7)
        figure.suptitle(f"{warmup} steps of warm-up", fontsize=7)
        grid[0, 0].set_ylabel("Mean |g|, first step", fontsize=7)
        grid[1, 0].set_ylabel("Mean |g|, last step", fontsize=7)
        handles = [
            Line2D([], [], color=colors(place), label=f"{depth} layers")
            for place, depth in enumerate(depths)
        ]
        legend_over(figure, handles, loc="outside lower left")
    return figure
