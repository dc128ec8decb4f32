"""How every figure looks: widths, fonts, and one look for each architecture."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from gradlab.figures.labels import plain_label

ONE_COLUMN = 3.3
"""Width in inches of one column of a two-column paper."""

TWO_COLUMNS = 6.8
"""Width in inches of both."""

PAPER: Mapping[Any, Any] = MappingProxyType(
    {
        "figure.dpi": 150,
        "savefig.dpi": 300,
        "font.family": "DejaVu Sans",  # comes with matplotlib: the same glyphs on every machine
        "font.size": 7.5,
        "axes.titlesize": 8,
        "axes.labelsize": 8,
        "xtick.labelsize": 7,
        "ytick.labelsize": 7,
        "legend.fontsize": 6.5,
        "legend.frameon": False,
        "legend.handlelength": 1.6,
        "legend.handletextpad": 0.5,
        "legend.columnspacing": 1.0,
        "legend.borderaxespad": 0.0,
        "lines.linewidth": 1.3,
        "lines.markersize": 4.5,
        "axes.linewidth": 0.6,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": "0.9",
        "grid.linewidth": 0.5,
        "xtick.major.width": 0.6,
        "ytick.major.width": 0.6,
        "pdf.fonttype": 42,  # TrueType, embedded: publishers refuse Type 3
        "ps.fonttype": 42,
        "svg.hashsalt": "gradlab",
    }
)
"""matplotlib settings for a figure that is printed at its own size."""


@dataclass(frozen=True)
class Look:
    """What an architecture looks like in every figure."""

    label: str
    color: str
    marker: str


LOOKS: Mapping[str, Look] = MappingProxyType(
    {
        "post-ln": Look("Post-LN", "#000000", "v"),
        "pre-ln": Look("Pre-LN", "#0A4275", "o"),
        "normformer": Look("NormFormer", "#C2481A", "s"),
        "normformer-resscale": Look("NormFormer + λ", "#E9B13A", "D"),
        "pre-ln-resscale": Look("Pre-LN + λ", "#559BCB", ">"),
    }
)
"""Look of each named architecture. The colours differ in lightness as well as in hue, so that
they stay apart in grey and under every kind of colour blindness; the markers do so too."""

_SPARE = (Look("", "#5B3A8E", "P"), Look("", "#3D8B6E", "X"), Look("", "#A0A0A0", "h"))

DASHES = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (4, 1.2, 1, 1.2)))
"""Line styles for a second distinction, beside the colour."""


def looks(architectures: Iterable[str]) -> dict[str, Look]:
    """A look for each architecture: its own if it is a named one, else a spare in turn."""
    found: dict[str, Look] = {}
    strangers = 0
    for arch in architectures:
        if arch in LOOKS:
            found[arch] = LOOKS[arch]
        elif arch not in found:
            spare = _SPARE[strangers % len(_SPARE)]
            found[arch] = Look(plain_label(arch), spare.color, spare.marker)
            strangers += 1
    return found


@contextmanager
def paper_style() -> Iterator[None]:
    """Draw with `PAPER`'s settings; the caller's come back on leaving."""
    with mpl.rc_context(dict(PAPER)):
        yield


def paper_axes(width: float = ONE_COLUMN, height: float | None = None) -> Axes:
    """Axes of a new pyplot figure of a paper's size, in inches; height 3/4 of the width if None."""
    with paper_style():
        figure = plt.figure(figsize=(width, height or 0.75 * width), layout="constrained")
        return figure.add_subplot()


def legend_above(ax: Axes, handles: Sequence[Line2D], *, columns: int = 3) -> None:
    """A legend above the axes, where no data can be under it, read row by row.

    Args:
        ax: The axes.
        handles: Lines with labels.
        columns: The most columns; fewer where they would be wider than the axes.
    """
    columns = min(columns, len(handles))
    room = ax.get_position().width * figure_of(ax).get_figwidth()
    while columns > 1 and _legend_width(handles, columns) > room:
        columns -= 1
    # matplotlib fills a legend column by column, the first ones one longer than the last.
    ordered = [handle for start in range(columns) for handle in handles[start::columns]]
    ax.legend(handles=ordered, loc="lower left", bbox_to_anchor=(0, 1.02), ncols=columns)


def _legend_width(handles: Sequence[Line2D], columns: int) -> float:
    """About how wide a legend is, in inches, with letters of half an em."""
    em = float(PAPER["legend.fontsize"]) / 72
    beside = PAPER["legend.handlelength"] + PAPER["legend.handletextpad"]
    longest = [
        max(len(str(handle.get_label())) for handle in handles[start::columns])
        for start in range(columns)
    ]
    gaps = PAPER["legend.columnspacing"] * (columns - 1)
    return em * float(sum(0.55 * letters + beside for letters in longest) + gaps)


def layer_axis(ax: Axes, n_layers: int) -> None:
    """Layers on x, with ticks at whole ones."""
    ax.set_xlim(-0.6, n_layers - 0.4)
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))


def figure_of(ax: Axes) -> Figure:
    """The figure that axes stand in, however deep in subfigures."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    return figure
