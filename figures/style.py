"""How every figure looks: widths, fonts, and one look for each architecture."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.textpath import text_to_path
from matplotlib.ticker import FixedLocator, MaxNLocator
from numpy.typing import ArrayLike

from gradlab.figures.labels import distinct_labels, plain_label
from gradlab.models.presets import ABLATIONS

ONE_COLUMN = 3.3
"""Width in inches of one column of a two-column paper."""

TWO_COLUMNS = 6.8
"""Width in inches of both."""

PAPER: Mapping[Any, Any] = MappingProxyType(
    {
        **seaborn.axes_style("ticks"),
        **seaborn.plotting_context("paper", font_scale=0.8),
        "figure.dpi": 150,
        "savefig.dpi": 300,
        "font.family": "DejaVu Sans",  # comes with matplotlib: the same glyphs on every machine
        "legend.fontsize": 6.5,
        "legend.frameon": False,
        "legend.handlelength": 1.6,
        "legend.handletextpad": 0.5,
        "legend.columnspacing": 1.0,
        "legend.borderaxespad": 0.0,
        "axes.linewidth": 0.6,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": "0.9",
        "grid.linewidth": 0.5,
        "xtick.major.width": 0.6,
        "ytick.major.width": 0.6,
        "xtick.major.size": 3.0,
        "ytick.major.size": 3.0,
        "pdf.fonttype": 42,  # TrueType, embedded: publishers refuse Type 3
        "ps.fonttype": 42,
        "svg.hashsalt": "gradlab",
    }
)
"""seaborn's theme for a paper, for a figure that is printed at its own size."""


@dataclass(frozen=True)
class Look:
    """What an architecture looks like in every figure."""

    label: str
    color: str
    marker: str | tuple[int, Literal[0, 1, 2], int]


LOOKS: Mapping[str, Look] = MappingProxyType(
    {
        "post-ln": Look("Post-LN", "#000000", "v"),
        "pre-ln": Look("Pre-LN", "#0A4275", "o"),
        "normformer": Look("NormFormer", "#C2481A", "s"),
        "normformer-resscale": Look("NormFormer + λ", "#E9B13A", "D"),
        "pre-ln-resscale": Look("Pre-LN + λ", "#559BCB", ">"),
        "minus-post-attn-ln": Look("Minus post-attention LN", "#884455", "P"),
        "minus-ffn-ln": Look("Minus FFN LN", "#AD4BFF", "X"),
        "minus-head-scale": Look("Minus head scale", "#AAAA77", "<"),
        "plus-3-more-ln": Look("Plus 3 more LN", "#332200", "p"),
        "deepnorm": Look("DeepNorm", "#0609F9", "^"),
        "peri-ln": Look("Peri-LN", "#2DD0CC", "*"),
        "qk-norm": Look("QK norm", "#98BE5C", "H"),
        "pre-rmsnorm": Look("Pre-RMSNorm", "#9E8FFE", "8"),
        "rezero": Look("ReZero", "#8B2A29", (3, 1, 0)),
        "layerscale": Look("LayerScale", "#B4019A", (3, 1, 180)),
        "reordered-norm": Look("Reordered norm", "#B021C2", (7, 1, 0)),
        "ln-scaling": Look("LN scaling", "#B67F81", (8, 1, 0)),
        "mix-ln": Look("Mix-LN", "#4F118C", (4, 1, 45)),
        "hybrid-norm": Look("HybridNorm", "#BB5E43", (5, 0, 180)),
        "dyt": Look("DyT", "#800FDF", (7, 0, 0)),
        "admin": Look("Admin", "#541039", (10, 1, 0)),
        "batch-norm": Look("BatchNorm", "#8A6D8A", (12, 1, 0)),
        "weight-standardised": Look("Weight-standardised", "#0103AB", (9, 1, 0)),
    }
)
"""Look of each named architecture. The colours differ in hue as well as in lightness, so that they
stay apart under every kind of colour blindness, and those of the first five, the architectures of
the paper, in grey too. Each has a marker of its own, which tells any two apart without colours:
where many stand in one figure, it is the safer of the two."""

_SPARE = (
    Look("", "#7755BB", "h"),
    Look("", "#99BBBB", "d"),
    Look("", "#4400FF", (6, 1, 0)),
    Look("", "#440088", (4, 1, 0)),
)

_BAND = 0.22
"""Opacity of the range over seeds."""

DASHES: tuple[Any, ...] = (
    *("", (4, 1.5), (1, 1.2), (4, 1.2, 1, 1.2)),
    *((8, 1.5), (4, 1.2, 1, 1.2, 1, 1.2)),
)
"""Dashes for a second distinction, beside the colour: lengths of ink and gap, or none for solid."""

_MOST_MARKERS = 12
"""Markers on a line, which keep lines apart in grey; of more points, some are marked."""


def looks(architectures: Iterable[str]) -> dict[str, Look]:
    """A look for each architecture: its own if it is a named one, else a spare in turn.

    The first four spares are nobody's, the next are those of the rows of Table 4 that are not here.
    After them the colours come again, with other markers.
    """
    names = dict.fromkeys(architectures)
    spare = [*_SPARE, *(LOOKS[name] for name in ABLATIONS if name not in names)]
    strangers = [name for name in names if name not in LOOKS]
    labels = distinct_labels(strangers)
    found = {}
    for place, name in enumerate(strangers):
        round_, place = divmod(place, len(spare))
        marker = spare[(place + round_) % len(spare)].marker
        found[name] = Look(labels[name], spare[place].color, marker)
    return {name: LOOKS.get(name) or found[name] for name in names}


def run_label(look: Look, seed: int | None) -> str:
    """A run's architecture, and its seed where that is to be said."""
    return look.label if seed is None else f"{look.label}, seed {seed}"


@contextmanager
def paper_style() -> Iterator[None]:
    """Draw with `PAPER`'s settings; the caller's come back on leaving."""
    with mpl.rc_context(dict(PAPER)):
        yield


class PaperFigure(Figure):
    """A figure of a paper's width, whose height is ours to choose."""


def paper_axes(width: float = ONE_COLUMN, height: float | None = None) -> Axes:
    """Axes of a new pyplot figure of a paper's size, in inches; height 3/4 of the width if None."""
    with paper_style():
        size = (width, height or 0.75 * width)
        figure = plt.figure(figsize=size, layout="constrained", FigureClass=PaperFigure)
        return figure.add_subplot()


def asides(names: Sequence[str], gap: float, *, most: float) -> dict[str, float]:
    """How far each name's points are set aside, that those of several may be seen at one x.

    Args:
        names: In the order in which their points stand beside each other.
        gap: Between two of them, as a share of the axis.
        most: Between the first and the last; the gap is less where it would be more.
    """
    unit = min(gap, most / max(len(names) - 1, 1))
    middle = (len(names) - 1) / 2
    return {name: (place - middle) * unit for place, name in enumerate(names)}


def legend_above(ax: Axes, handles: Sequence[Line2D], *, columns: int = 3) -> None:
    """A legend above the axes, where no data can be under it, read row by row.

    A figure of `paper_axes` grows with it, by what the rows after the second take.

    Args:
        ax: The axes.
        handles: Lines with labels.
        columns: The most columns; fewer where they would be wider than the axes.
    """
    figure = figure_of(ax)
    columns = _columns(handles, columns, ax.get_position().width * figure.get_figwidth())
    if isinstance(figure, PaperFigure):
        _grow(figure, -(-len(handles) // columns) - 2)
    ax.legend(
        handles=_row_by_row(handles, columns),
        loc="lower left",
        bbox_to_anchor=(0, 1.02),
        ncols=columns,
    )


_LEGEND_EDGE = 0.08
"""Inches between a figure's edge and the legend over its panels."""


def legend_over(
    figure: Figure,
    handles: Sequence[Line2D],
    *,
    loc: Literal["outside upper left", "outside lower left"] = "outside upper left",
) -> None:
    """A legend over all panels of a figure, read row by row; rows after the first make it higher.

    Args:
        figure: A figure with a constrained layout.
        handles: Lines with labels.
        loc: Over the panels, or under them where a title stands over them.
    """
    columns = _columns(handles, len(handles), figure.get_figwidth() - 2 * _LEGEND_EDGE)
    figure.legend(
        handles=_row_by_row(handles, columns),
        loc=loc,
        ncols=columns,
        borderaxespad=_LEGEND_EDGE * 72 / PAPER["legend.fontsize"],
    )
    _grow(figure, -(-len(handles) // columns) - 1)


def _grow(figure: Figure, rows: int) -> None:
    """Make a figure higher by the rows of a legend."""
    more = 1.5 * PAPER["legend.fontsize"] / 72 * max(rows, 0)
    figure.set_figheight(figure.get_figheight() + more)


def _columns(handles: Sequence[Line2D], most: int, room: float) -> int:
    """As many columns of a legend as are no wider than the room, in inches."""
    columns = min(most, len(handles))
    while columns > 1 and _legend_width(handles, columns) > room:
        columns -= 1
    return columns


def _row_by_row(handles: Sequence[Line2D], columns: int) -> list[Line2D]:
    """In matplotlib's order, which fills a legend column by column, the first ones one longer."""
    return [handle for start in range(columns) for handle in handles[start::columns]]


def _legend_width(handles: Sequence[Line2D], columns: int) -> float:
    """How wide a legend is, in inches."""
    size = PAPER["legend.fontsize"]
    font = FontProperties(family=PAPER["font.family"], size=size)
    widths = [
        text_to_path.get_text_width_height_descent(str(handle.get_label()), font, ismath=False)[0]
        for handle in handles
    ]
    beside = columns * (PAPER["legend.handlelength"] + PAPER["legend.handletextpad"])
    beside += (columns - 1) * PAPER["legend.columnspacing"]
    return float(sum(max(widths[start::columns]) for start in range(columns)) + size * beside) / 72


def linestyle(dashes: Any) -> Any:
    """One of `DASHES` as matplotlib takes it."""
    return (0, dashes) if dashes else "-"


def encoding(style: Mapping[str, Look]) -> dict[str, Any]:
    """What seaborn's functions take so that a row of column arch has its architecture's look."""
    return {
        "hue": "arch",
        "hue_order": list(style),
        "palette": {arch: look.color for arch, look in style.items()},
        "style": "arch",
        "style_order": list(style),
        "markers": {arch: look.marker for arch, look in style.items()},
        "legend": False,
    }


def draw_lines(
    ax: Axes,
    rows: pd.DataFrame,
    x: str,
    y: str,
    style: Mapping[str, Look],
    *,
    dashes: Mapping[str, Any] | None = None,
    markers: bool = True,
    **line: Any,
) -> None:
    """A line for each architecture, with gaps where y is missing.

    Args:
        ax: Where to draw.
        rows: Columns arch, x, y, and with dashes the column size; in the order of x.
        x: The column of x.
        y: The column of y.
        style: The looks.
        dashes: One of `DASHES` for each size; one size has none.
        markers: Whether the points have them.
        line: Of matplotlib's lines.
    """
    size = rows["size"].astype(str) if dashes else pd.Series("", index=rows.index)
    names = list(dashes or [""])
    keys = {f"{arch}\n{name}": (arch, name) for arch in style for name in names}
    line_of = rows["arch"] + "\n" + size
    # seaborn drops what is missing and would draw across it: each stretch is a line of its own.
    stretch = rows[y].isna().groupby(line_of).cumsum()
    most = int(rows.groupby(line_of).size().max())
    options: dict[str, Any] = {
        **encoding(style),
        "style": "line",
        "style_order": list(keys),
        "markers": markers and {key: style[arch].marker for key, (arch, _) in keys.items()},
        "dashes": {key: dashes[name] if dashes else "" for key, (_, name) in keys.items()},
    }
    looks_of = {"linewidth": 1.0, "markersize": 4, "markeredgewidth": 0.4, "zorder": 3}
    seaborn.lineplot(
        rows.assign(line=line_of, stretch=stretch),
        x=x,
        y=y,
        units="stretch",
        estimator=None,
        errorbar=None,
        ax=ax,
        **options,
        **{**looks_of, "markevery": -(-most // _MOST_MARKERS), **line},
    )


def line_mark(look: Look, **line: Any) -> Line2D:
    """What `draw_lines` draws, for a legend."""
    options: dict[str, Any] = {"markersize": 4, "markeredgecolor": "white", "markeredgewidth": 0.4}
    options = {"color": look.color, "marker": look.marker, "linewidth": 1.0, **options, **line}
    return Line2D([], [], label=look.label, **options)


def size_mark(size: str, dashes: Any) -> Line2D:
    """A size's dashes, for a legend."""
    return Line2D([], [], color="0.4", linestyle=linestyle(dashes), label=plain_label(size))


def draw_range(ax: Axes, x: ArrayLike, low: ArrayLike, high: ArrayLike, color: str) -> None:
    """The range of seeds around a line: a band, and a bar where a point has no neighbours."""
    x, low, high = (np.asarray(values, np.float64) for values in (x, low, high))
    ax.fill_between(x, low, high, color=color, alpha=_BAND, linewidth=0, zorder=2)
    known = np.isfinite(low) & np.isfinite(high)
    alone = known & ~np.append(False, known[:-1]) & ~np.append(known[1:], False)
    if alone.any():
        ax.vlines(x[alone], low[alone], high[alone], color=color, alpha=_BAND, lw=5, zorder=2)


def range_of_seeds() -> Line2D:
    """What `draw_range` draws, for a legend."""
    band = Line2D([], [], color="0.4", alpha=_BAND, linewidth=5, label="range of seeds")
    band.set_solid_capstyle("butt")
    return band


def panel_columns(panels: int, most: int) -> int:
    """How many panels stand side by side: as leave the fewest empty places in the last line.

    Args:
        panels: How many there are.
        most: The most in a line, and one more than the fewest where there are several lines.
    """
    if panels <= 3:
        return panels
    if panels == 4:
        return 2
    return max((most, most - 1), key=lambda columns: (-(-panels % columns), columns))


def layer_axis(ax: Axes, n_layers: int) -> None:
    """Layers on x, with ticks at whole ones."""
    ax.set_xlim(-0.6, n_layers - 0.4)
    few = FixedLocator(range(n_layers)) if n_layers <= 8 else None
    ax.xaxis.set_major_locator(few or MaxNLocator(6, integer=True, min_n_ticks=1))


def figure_of(ax: Axes) -> Figure:
    """The figure that axes stand in, however deep in subfigures."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    return figure
