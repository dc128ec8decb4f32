"""Figure 6 of the NormFormer paper: the learned factor on the residual, by depth."""

import pandas as pd
from matplotlib.axes import Axes

from gradlab.analyses.scales import summarise_lambda
from gradlab.errors import GradlabError, unknown
from gradlab.figures.labels import plain_label
from gradlab.figures.style import (
    DASHES,
    draw_lines,
    draw_range,
    legend_above,
    line_mark,
    looks,
    paper_axes,
    paper_style,
    range_of_seeds,
    size_mark,
)

_RESIDUALS = {"ffn_residual": "FFN residual", "attn_residual": "attention residual"}


def lambda_resid_by_depth(
    lambdas: pd.DataFrame, *, residual: str = "ffn_residual", ax: Axes | None = None
) -> Axes:
    """Mean λ_resid of each layer against its depth: a colour an architecture, a dash a size.

    The line is the mean over seeds, the band their range. Below 1, a layer weighs what comes from
    the layers before it down. Layers without a finite mean are gaps.

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
    rows = lambdas[lambdas["residual"] == residual]
    if rows["mean"].isna().all():
        raise GradlabError("no λ_resid is finite: there is nothing to draw.")
    means = summarise_lambda(rows)
    style = looks(means["arch"])
    sizes = list(pd.unique(means["size"]))
    if ax is None:
        ax = paper_axes()
    dashes = {str(size): DASHES[place % len(DASHES)] for place, size in enumerate(sizes)}
    with paper_style():
        ax.axhline(1, color="0.6", linewidth=0.8, zorder=1)
        for (_, arch), line in means.groupby(["size", "arch"], sort=False):
            draw_range(ax, line["depth"], line["min"], line["max"], style[str(arch)].color)
        draw_lines(ax, means, "depth", "mean", style, dashes=dashes)
        ax.set_xlim(-0.03, 1.03)
        ax.margins(y=0.1)
        ax.ticklabel_format(axis="y", useOffset=False)
        ax.set_xlabel("Depth (layer / layers)")
        name = _RESIDUALS.get(residual, plain_label(residual))
        ax.set_ylabel(f"Mean λ, the learned factor on\nthe {name} (1 at first)")
        handles = [line_mark(look) for look in style.values()]
        if len(sizes) > 1:
            handles += [size_mark(size, drawn) for size, drawn in dashes.items()]
        if rows.groupby(["size", "arch"])["seed"].nunique().max() > 1:
            handles.append(range_of_seeds())
        legend_above(ax, handles)
    return ax
