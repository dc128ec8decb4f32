"""Figure 1 of the NormFormer paper: one layer as a diagram, with the added operations marked."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, Rectangle

from gradlab.errors import GradlabError
from gradlab.figures.block_rows import (
    AFTER,
    ATTENTION,
    BEFORE,
    FFN,
    PLACES,
    Row,
    has_added,
    kinds_of_layer,
    on_skip,
    rows_of,
)
from gradlab.figures.style import LOOKS, TWO_COLUMNS, paper_axes, paper_style
from gradlab.models.config import ModelConfig

_ROOM_BELOW = {"attention": 1.4, "qkv": 0.25, "ffn": 0.45, "after": 0.7}
"""Rows of room where the layer begins behind something, where the stream fans out, where it
branches off again, and where the layer ends."""

_MAIN, _SKIP, _BESIDE = 0.57, 0.14, 0.95
"""Where the sublayers, the residual stream past them and their names stand, in shares of the
axes' width."""

_BOX_WIDTH, _BOX_HEIGHT = 0.6, 0.66
_LAMBDA_WIDTH = 0.2

_ROW = 0.23
"""Height of a row in inches."""

_COLUMN = 1.7
"""Width in inches of a diagram that has the room it wants."""

_MOST_COLUMNS = 5

_ADDED = LOOKS["normformer"].color
_PLAIN, _EDGE, _LINE = "white", "0.3", "0.3"


def block_diagram(config: ModelConfig, *, title: str | None = None, ax: Axes | None = None) -> Axes:
    """One layer, from its input at the bottom to its output, as `gradlab.build_model` makes it.

    Boxes of operations that plain Pre-LN and Post-LN lack are filled, dark in grey too. The
    residual stream passes a sublayer on the left and is added after it, ⊕; where it is scaled, λ
    stands on it: λ ⊙ for a vector, λ · for a scalar; α · for a constant. The frame is one of the
    model's layers, with their number; norms and caps around the layers are outside it. A box's
    artist has the operation's name in gradlab's tables as its label.

    Args:
        config: The model.
        title: Above the diagram.
        ax: Where to draw; a new figure of the size that the diagram wants if None.

    Raises:
        GradlabError: Not all of the model's layers are alike.
    """
    if len(kinds_of_layer(config)) > 1:
        raise GradlabError("the layers of this model differ: draw it with block_panels.")
    rows = rows_of(config)
    heights = _heights([rows])
    if ax is None:
        ax = paper_axes(_COLUMN, _ROW * _span(heights) + 0.4)
    with paper_style():
        _draw(ax, config, rows, heights)
        if title is not None:
            ax.set_title(title, loc="left")
        if has_added(config, rows):
            ax.legend(handles=[_ADDED_MARK], loc="upper center", bbox_to_anchor=(0.5, 0.0))
    return ax


def block_panels(configs: Mapping[str, ModelConfig]) -> Figure:
    """`block_diagram` of several models, the same operation at the same height.

    A model with two kinds of layer (Mix-LN) has a panel for each.

    Args:
        configs: The models by their titles.

    Raises:
        GradlabError: There are none.
    """
    if not configs:
        raise GradlabError("there is no block to draw: give at least one model.")
    panels = [
        (title + part, of_part)
        for title, config in configs.items()
        for part, of_part in kinds_of_layer(config).items()
    ]
    all_rows = [rows_of(config) for _, config in panels]
    lines = -(-len(panels) // _MOST_COLUMNS)
    columns = -(-len(panels) // lines)
    width = min(TWO_COLUMNS, _COLUMN * columns)
    # Panels of one line are at the same height; another line has rows of its own.
    heights = [_heights(all_rows[at : at + columns]) for at in range(0, len(panels), columns)]
    spans = [_span(of_line) for of_line in heights]
    with paper_style():
        figure, grid = plt.subplots(
            lines,
            columns,
            figsize=(width, sum(_ROW * span + 0.25 for span in spans) + 0.2),
            height_ratios=spans,
            squeeze=False,
            layout="constrained",
        )
        for ax in grid.flat[len(panels) :]:
            ax.set_visible(False)
        for at, ((title, config), rows) in enumerate(zip(panels, all_rows, strict=True)):
            ax = grid.flat[at]
            _draw(ax, config, rows, heights[at // columns])
            ax.set_title(title, loc="left")
        if any(has_added(config, rows) for (_, config), rows in zip(panels, all_rows, strict=True)):
            figure.legend(handles=[_ADDED_MARK], loc="outside upper left")
    return figure


def _heights(diagrams: Sequence[Mapping[str, Row]]) -> dict[str, float]:
    """How high each place is, counted in rows, where several diagrams stand side by side."""
    heights: dict[str, float] = {}
    height = 0.0
    for place in PLACES:
        if not any(place in rows for rows in diagrams):
            continue
        height += _room_below(place, heights)
        heights[place] = height
        height += 1
    return heights


def _room_below(place: str, lower: Collection[str]) -> float:
    """Rows of room under a place, above those that are lower."""
    for part, name in ((ATTENTION, "attention"), (FFN, "ffn"), (AFTER, "after")):
        if place in part and lower and not any(known in part for known in lower):
            return _ROOM_BELOW[name] + (_ROOM_BELOW.get(place, 0.0))
    return _ROOM_BELOW.get(place, 0.0)


_BELOW, _ABOVE = 1.5, 0.9
"""Rows below the first one, where the input comes from, and above the last."""


def _span(heights: Mapping[str, float]) -> float:
    """Rows from the bottom of a diagram to its top."""
    return max(heights.values()) + _BELOW + _ABOVE


def _draw(
    ax: Axes, config: ModelConfig, rows: Mapping[str, Row], heights: Mapping[str, float]
) -> None:
    ax.set_axis_off()
    ax.set_xlim(0, 1)
    ax.set_ylim(-_BELOW, max(heights.values()) + _ABOVE)
    layer = [heights[place] for place in heights if place not in (*BEFORE, *AFTER)]
    _draw_frame(ax, layer, config.n_layers)
    _draw_main(ax, rows, heights)
    for name, sublayer in (("attention", ATTENTION), ("feed-forward", FFN)):
        own = [place for place in sublayer if place in rows]
        (sum_place,) = (place for place in own if place.endswith("_residual"))
        below = 0.95 if own[0] == "qkv" else 0.72  # below the fork to q, k and v
        branch, end = heights[own[0]] - below, heights[sum_place]
        _draw_skip(ax, branch, end)
        if (scale := on_skip(config, sublayer)) is not None:
            _draw_box(ax, _SKIP, (branch + end) / 2, _LAMBDA_WIDTH, *scale, True)
        middle = (heights[own[0]] + heights[own[-1]]) / 2
        ax.text(_BESIDE, middle, name, rotation=90, ha="center", va="center", color="0.4", size=6)


def _draw_frame(ax: Axes, layer: Sequence[float], n_layers: int) -> None:
    """What is repeated in every layer, and how often."""
    bottom, top = layer[0] - 1.0, layer[-1] + 0.65
    ax.add_patch(
        Rectangle((0, bottom), 1, top - bottom, facecolor="0.95", edgecolor="none", zorder=0)
    )
    ax.text(0.98, top + 0.12, f"× {n_layers}", ha="right", va="bottom", color="0.25", size=7)


def _draw_main(ax: Axes, rows: Mapping[str, Row], heights: Mapping[str, float]) -> None:
    """The boxes, and the arrows from each to the next."""
    start, starts = -_BELOW, [_MAIN]
    for place, row in rows.items():
        height = heights[place]
        centres = _centres(len(row.labels))
        half = _BOX_HEIGHT / 2 if row.labels else 0.28
        _draw_arrows(ax, starts, start, centres, height - half)
        if not row.labels:
            _draw_sum(ax, height, row.ops[0])
        width = _BOX_WIDTH if len(centres) == 1 else 0.27 * _BOX_WIDTH
        for centre, label, op in zip(centres, row.labels, row.ops, strict=False):
            if label:
                _draw_box(ax, centre, height, width, label, op, row.added)
            else:
                ax.plot([centre] * 2, [height - half, height + half], **_STROKE)
        start, starts = height + half, centres
    _draw_arrows(ax, starts, start, [_MAIN], max(heights.values()) + _ABOVE)


def _centres(boxes: int) -> list[float]:
    """Where boxes stand side by side."""
    if boxes <= 1:
        return [_MAIN]
    return [_MAIN + _BOX_WIDTH * 0.365 * side for side in (-1, 0, 1)]


def _draw_arrows(
    ax: Axes, starts: Sequence[float], low: float, ends: Sequence[float], high: float
) -> None:
    """Arrows upwards: one into each end, from below it, or from a line across if they fan out."""
    if len(ends) > len(starts):
        fork = high - 0.3
        ax.plot([starts[0]] * 2, [low, fork], **_STROKE)
        ax.plot([ends[0], ends[-1]], [fork] * 2, **_STROKE)
        low = fork
    for x in max(starts, ends, key=len):
        _draw_arrow(ax, (x, low), (x, high))


_STROKE: Mapping[str, Any] = {
    "color": _LINE,
    "linewidth": 0.8,
    "solid_capstyle": "butt",
    "zorder": 1,
}


def _draw_arrow(ax: Axes, tail: tuple[float, float], head: tuple[float, float]) -> None:
    ax.add_patch(
        FancyArrowPatch(
            tail,
            head,
            arrowstyle="-|>,head_length=0.35,head_width=0.18",
            mutation_scale=8,
            shrinkA=0,
            shrinkB=0,
            color=_LINE,
            linewidth=0.8,
            zorder=1,
        )
    )


def _draw_skip(ax: Axes, branch: float, end: float) -> None:
    """The residual stream past a sublayer, from where it branches off to the sum."""
    ax.plot([_MAIN, _SKIP, _SKIP], [branch, branch, end], **_STROKE)
    _draw_arrow(ax, (_SKIP, end), (_MAIN - 0.055, end))


def _draw_sum(ax: Axes, height: float, op: str) -> None:
    """A circle with a cross, round whatever the shape of the axes."""
    look: Mapping[str, Any] = {"linestyle": "none", "color": _LINE, "zorder": 2}
    ax.plot([_MAIN], [height], marker="o", markersize=9, markerfacecolor="white", label=op, **look)
    ax.plot([_MAIN], [height], marker="+", markersize=6, markeredgewidth=0.9, **look)


def _draw_box(
    ax: Axes, centre: float, height: float, width: float, label: str, op: str, added: bool
) -> None:
    ax.add_patch(
        Rectangle(
            (centre - width / 2, height - _BOX_HEIGHT / 2),
            width,
            _BOX_HEIGHT,
            facecolor=_ADDED if added else _PLAIN,
            edgecolor=_ADDED if added else _EDGE,
            linewidth=0.7,
            label=op,
            zorder=2,
        )
    )
    ax.text(
        centre,
        height,
        label,
        ha="center",
        va="center_baseline",
        color="white" if added else "black",
        weight="bold" if added else "normal",
        size=6.5 if width == _BOX_WIDTH else 5.5,
        zorder=3,
    )


_ADDED_MARK = Line2D(
    [],
    [],
    linestyle="none",
    marker="s",
    color=_ADDED,
    label="added to the plain block",
)
