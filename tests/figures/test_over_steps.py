"""Small panels over steps: the figures of gradients, updates, scales and scores."""

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import TICKUP

from gradlab.errors import GradlabError
from gradlab.figures.layer_courses import gradient_norm_over_steps, update_over_weight
from gradlab.figures.over_steps import MOST_PANELS
from gradlab.figures.score_courses import scores_over_steps


def courses(layers: int = 3, steps: int = 20, ops: tuple[str, ...] = ("q", "fc2")) -> pd.DataFrame:
    rows: list[tuple[Any, ...]] = [
        (op, layer, step, 10.0 ** (place - layer) * (1 + step % 3))
        for place, op in enumerate(ops)
        for layer in range(layers)
        for step in range(steps)
    ]
    rows += [("embed", None, step, 5.0) for step in range(steps)]
    table = pd.DataFrame(rows, columns=["op", "layer", "step", "value"])
    return table.astype({"layer": "Int64"}).assign(lost=False)


def panels(figure: Figure) -> dict[str, Axes]:
    return {ax.get_title(loc="left"): ax for ax in figure.axes if ax.get_title(loc="left")}


def lines(ax: Axes) -> list[Any]:
    return [line for line in ax.lines if line.get_linestyle() == "-" and len(line.get_xdata()) > 2]


def lost(ax: Axes) -> list[float]:
    return [x for line in ax.lines if line.get_marker() == "|" for x in line.get_xdata()]


def test_a_panel_an_op_and_a_line_a_layer() -> None:
    table = courses()
    found = panels(gradient_norm_over_steps(table))
    assert list(found) == ["q", "fc2", "embed"]
    for op in ("q", "fc2"):
        for layer, line in enumerate(lines(found[op])):
            own = table[(table["op"] == op) & (table["layer"] == layer)]
            np.testing.assert_array_equal(line.get_xdata(), own["step"])
            np.testing.assert_allclose(line.get_ydata(), own["value"])
    assert len(lines(found["embed"])) == 1
    colours = {line.get_color() for line in lines(found["q"])}
    assert len(colours) == 3
    assert [line.get_color() for line in lines(found["fc2"])] == [
        line.get_color() for line in lines(found["q"])
    ]


def test_what_the_figure_is_and_the_scale_of_its_lines() -> None:
    figure = gradient_norm_over_steps(courses(), title="Gradient norm: mine", break_step=7)
    assert figure.get_suptitle() == "Gradient norm: mine"
    assert figure.get_supylabel() == "L2 norm of the weights' gradient\n(log scale)"
    assert figure.axes[-1].get_ylabel() == "Layer"
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["outside the layers", "break, step 7"]
    assert all(any(line.get_xdata()[0] == 7 for line in ax.lines) for ax in panels(figure).values())


def test_steps_that_were_not_finite_are_gaps_with_marks() -> None:
    table = courses()
    bad = (table["op"] == "q") & (table["layer"] == 1) & table["step"].isin([4, 5])
    table.loc[bad, ["value", "lost"]] = [math.nan, True]
    found = panels(gradient_norm_over_steps(table))
    assert lost(found["q"]) == [4, 5]
    assert lost(found["fc2"]) == []
    gaps = [np.flatnonzero(np.isnan(line.get_ydata())).tolist() for line in lines(found["q"])]
    assert gaps == [[], [4, 5], []]


def test_an_op_with_nan_throughout_says_so_and_the_others_are_drawn() -> None:
    table = courses()
    bad = table["op"] == "fc2"
    table.loc[bad, ["value", "lost"]] = [math.nan, True]
    found = panels(update_over_weight(table))
    assert [text.get_text() for text in found["fc2"].texts] == ["never finite"]
    assert len(lines(found["q"])) == 3
    with pytest.raises(GradlabError, match="no value is finite"):
        update_over_weight(table.assign(value=math.nan))


def test_a_gradient_of_zero_throughout_says_so() -> None:
    table = courses()
    table.loc[table["op"] == "fc2", "value"] = 0.0
    figure = gradient_norm_over_steps(table)
    assert [text.get_text() for text in panels(figure)["fc2"].texts] == ["0 throughout"]


@pytest.mark.parametrize("layers", [1, 4, 12, 48])
@pytest.mark.parametrize("steps", [1, 1000])
def test_any_depth_and_length(layers: int, steps: int) -> None:
    figure = gradient_norm_over_steps(courses(layers, steps, ops=("fc2",)))
    figure.draw_without_rendering()
    ax = panels(figure)["fc2"]
    drawn = [line for line in ax.lines if line.get_linestyle() == "-"]
    assert len(drawn) == layers
    assert all(line.get_marker() == "." for line in drawn) == (steps == 1), "a step is a dot"
    boxes = [label.get_window_extent() for label in ax.get_xticklabels() if label.get_text()]
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))


def test_many_points_are_thinned_and_keep_their_extremes() -> None:
    table = courses(layers=48, steps=3000, ops=("fc2",))
    table.loc[777, "value"] = 1e9
    figure = gradient_norm_over_steps(table)
    drawn = lines(panels(figure)["fc2"])
    assert sum(len(line.get_xdata()) for line in drawn) < 30_000
    assert max(np.nanmax(line.get_ydata()) for line in drawn) == 1e9


def test_names_that_are_formulas_and_very_many_ops() -> None:
    names = (*("$x^{_", "<b>", "_a"), *(f"op.{n}" for n in range(MOST_PANELS)))
    figure = gradient_norm_over_steps(courses(1, 2, ops=names), title="mine")
    assert len(panels(figure)) == MOST_PANELS
    assert figure.get_suptitle() == (
        f"mine (the {MOST_PANELS} largest of {MOST_PANELS + 4} panels)"
    )
    few = gradient_norm_over_steps(courses(1, 2, ops=names[:3]))
    few.draw_without_rendering()
    assert [ax.get_title(loc="left")[-2:] for ax in few.axes[:3]] == ["{_", "b>", "_a"]


def scores(layers: int = 2, heads: int = 4, bound: str = "exact") -> pd.DataFrame:
    rows = [
        (f"h.{layer}.attn", layer, head, step, bound, 100.0 * (head + 1))
        for layer in range(layers)
        for head in range(heads)
        for step in range(5)
    ]
    columns = ["site", "layer", "head", "step", "bound", "value"]
    return pd.DataFrame(rows, columns=columns).assign(lost=False)


def test_scores_have_a_panel_a_layer_and_a_line_a_head() -> None:
    figure = scores_over_steps(scores())
    found = panels(figure)
    assert list(found) == ["layer 0", "layer 1"]
    assert [line.get_ydata()[0] for line in lines(found["layer 0"])] == [100, 200, 300, 400]
    assert not figure.legends
    bounds = scores_over_steps(scores(bound="upper"))
    assert [text.get_text() for text in bounds.legends[0].get_texts()] == ["upper bound"]


def test_a_layer_with_two_attentions_has_two_panels() -> None:
    both = pd.concat([scores(1), scores(1).assign(site="h.0.cross")])
    assert list(panels(scores_over_steps(both))) == ["h.0.attn", "h.0.cross"]


def test_the_limit_of_fp16_is_marked_where_it_is_near() -> None:
    near = scores().assign(value=np.geomspace(1, 80_000, 40))
    texts = [text.get_text() for text in scores_over_steps(near).legends[0].get_texts()]
    assert texts == ["FP16's largest number"]


def test_a_zero_on_a_logarithmic_scale_is_a_gap_with_a_tick_at_the_bottom() -> None:
    """Else its line would run out of the panel."""
    table = courses()
    table.loc[(table["op"] == "q") & (table["layer"] == 1) & (table["step"] == 7), "value"] = 0.0
    figure = gradient_norm_over_steps(table)
    ax = panels(figure)["q"]
    for line in lines(ax):
        values = np.asarray(line.get_ydata(), float)
        assert (values[np.isfinite(values)] > ax.get_ylim()[0]).all()
    (ticks,) = [line for line in ax.lines if line.get_marker() == TICKUP]
    assert list(ticks.get_xdata()) == [7]
    assert "0" in [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.mark.parametrize(("count", "columns"), [(3, 3), (4, 2), (6, 3), (7, 4), (10, 5), (13, 5)])
def test_few_places_of_the_last_line_are_empty(count: int, columns: int) -> None:
    figure = gradient_norm_over_steps(courses(2, 3, tuple("abcdefghijklm"[: count - 1])))
    shown = [ax for ax in panels(figure).values() if ax.get_visible()]
    assert len({round(ax.get_position().x0, 3) for ax in shown}) == columns
    assert figure.get_supxlabel() == "Step"


@pytest.mark.parametrize("break_step", [0, 30, None])
def test_the_axis_goes_up_to_the_break(break_step: int | None) -> None:
    table = courses()
    table = table[table["step"] > 3]
    for ax in panels(gradient_norm_over_steps(table, break_step=break_step)).values():
        left, right = ax.get_xlim()
        shown = [4, 19] if break_step is None else [4, 19, break_step]
        assert left <= min(shown)
        assert max(shown) <= right < max(shown) + 2


@pytest.mark.parametrize("steps", [2, 20, 21])
def test_a_curve_of_few_points_has_markers(steps: int) -> None:
    ax = panels(gradient_norm_over_steps(courses(1, steps, ops=("fc2",))))["fc2"]
    (line,) = ax.lines
    is_marked = line.get_marker() == "."
    assert is_marked == (steps <= 20)
    if is_marked:
        assert line.get_markevery() == list(range(steps))
