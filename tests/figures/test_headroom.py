import math
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh

from gradlab.errors import GradlabError
from gradlab.figures.headroom import Road, headroom_panels, headroom_to_break
from gradlab.figures.style import figure_of, paper_axes


def road(layers: int = 3, steps: int = 20, *, outside: bool = False) -> pd.DataFrame:
    rows = [
        (step, step * 2e-4, layer, "scores", -math.inf if step == steps - 1 else 12 - step / 2)
        for step in range(steps)
        for layer in [*range(layers), *([None] if outside else [])]
    ]
    columns = ["step", "lr", "layer", "site", "headroom_bits"]
    return pd.DataFrame(rows, columns=columns).astype({"layer": "Int64"})


def cells(ax: Axes) -> np.ndarray:
    """Bits of each row and stretch; NaN where there is no cell."""
    (mesh,) = [found for found in ax.collections if isinstance(found, QuadMesh)]
    return np.ma.filled(mesh.get_array().astype(float), np.nan)


def mesh_of(ax: Axes) -> QuadMesh:
    (mesh,) = [found for found in ax.collections if isinstance(found, QuadMesh)]
    return mesh


def colours(ax: Axes) -> np.ndarray:
    """Of the cells: layers, stretches, red green blue alpha."""
    mesh = mesh_of(ax)
    return mesh.cmap(mesh.norm(mesh.get_array()))


def rows(ax: Axes) -> list[str]:
    return [label.get_text() for label in ax.get_yticklabels()]


def broken_at(ax: Axes) -> list[float]:
    """Where vertical lines are."""
    return [line.get_xdata()[0] for line in ax.lines if len(set(line.get_xdata())) == 1]


def test_a_row_a_layer_and_a_cell_a_step() -> None:
    table = road()
    ax = headroom_to_break(table)
    assert rows(ax) == ["0", "1", "2"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1], "the first layer on top"
    for layer, drawn in enumerate(cells(ax)):
        own = table[table["layer"] == layer]["headroom_bits"]
        np.testing.assert_allclose(drawn[:-1], own[:-1])


def test_a_cell_of_many_steps_has_the_least_bits_of_them() -> None:
    table = road(steps=600)
    table["headroom_bits"] = 10.0
    table.loc[(table["layer"] == 1) & (table["step"] == 300), "headroom_bits"] = 2.0
    drawn = cells(headroom_to_break(table))
    assert drawn.shape == (3, 60)
    assert (drawn[[0, 2]] == 10).all()
    assert sorted(drawn[1]) == [2.0] + [10.0] * 59


def test_an_overflow_has_a_colour_that_no_number_of_bits_has() -> None:
    table = road()
    table.loc[0, "headroom_bits"] = -4.0  # a wide tensor past FP16's range: no overflow
    ax = headroom_to_break(table)
    drawn = colours(ax)
    over = mesh_of(ax).cmap.get_under()
    is_over = (np.abs(drawn - over) < 1e-6).all(axis=-1)
    assert is_over[:, -1].all()
    assert not is_over[:, :-1].any()
    finite = mesh_of(ax).cmap(np.linspace(0, 1, 64))
    assert np.abs(finite[:, :3] - over[:3]).sum(axis=1).min() > 0.3
    assert mesh_of(ax).norm.vmin == -4


def test_what_is_tighter_is_darker() -> None:
    drawn = colours(headroom_to_break(road()))[0, :-1, :3] @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(drawn) < 0).all()  # headroom falls along the road


def test_the_break_is_marked_and_named() -> None:
    ax = headroom_to_break(road(), break_lr=0.003)
    assert broken_at(ax) == [0.003]
    assert ax.get_xlim() == (0, 0.003)
    assert np.isfinite(cells(ax)).all()
    assert cells(ax).shape[1] == 16, "the cell of step 15 is the last"
    assert "break, LR 0.003" in [text.get_text() for text in ax.get_legend().get_texts()]
    without = headroom_to_break(road())
    assert [text.get_text() for text in without.get_legend().get_texts()] == [
        "overflow (inf or NaN)"
    ]
    table = road()
    calm = headroom_to_break(table[table["headroom_bits"] > 0])
    assert calm.get_legend() is None, "nothing overflowed in it"


def test_gradients_that_overflowed_are_marked_above_their_steps() -> None:
    table = road()
    table = table[table["headroom_bits"] > 0]  # every activation was finite
    lost = pd.DataFrame({"step": [0, 3, 18], "lr": [0.0, 3 * 2e-4, 18 * 2e-4]})
    for against in ("step", "lr"):
        figure = headroom_panels(
            {"Pre-LN": Road(table, gradients=lost), "Post-LN": Road(table)}, against=against
        )
        marks = [[line.get_xdata() for line in ax.lines] for ax in figure.axes[:2]]
        assert [[list(one) for one in of] for of in marks] == [[list(lost[against])], []]
        (legend,) = figure.legends
        assert [text.get_text() for text in legend.get_texts()] == ["a gradient overflowed"]


def test_sites_outside_the_layers_are_the_last_row() -> None:
    table = road(outside=True)
    table.loc[table["layer"].isna(), "headroom_bits"] = 7.0
    ax = headroom_to_break(table)
    assert rows(ax) == ["0", "1", "2", "outside\nthe layers"]
    assert (cells(ax)[-1] == 7).all()
    only = headroom_to_break(table[table["layer"].isna()])
    assert rows(only) == ["outside\nthe layers"]


@pytest.mark.parametrize("layers", [1, 4, 12, 48])
@pytest.mark.parametrize("outside", [False, True])
def test_any_depth_has_its_rows_and_labels_that_do_not_touch(layers: int, outside: bool) -> None:
    ax = headroom_to_break(road(layers, outside=outside))
    figure_of(ax).draw_without_rendering()
    assert cells(ax).shape[0] == layers + outside
    boxes = [label.get_window_extent() for label in ax.get_yticklabels()]
    for above, below in pairwise(boxes):
        assert above.y0 >= below.y1 - 1
    bar = figure_of(ax).axes[-1].yaxis.label.get_window_extent()
    assert 0 <= bar.y0 < bar.y1 <= figure_of(ax).bbox.y1


def test_rows_of_one_in_ten_steps_leave_no_gaps() -> None:
    table = road(steps=400)
    event = table["step"].isin([141, 142])
    drawn = cells(headroom_to_break(table[(table["step"] % 10 == 0) | event]))
    assert np.isfinite(drawn).all()
    assert drawn.shape[1] == 40


def test_a_stretch_without_rows_shows_the_one_before() -> None:
    table = road(steps=50)
    drawn = cells(headroom_to_break(table[~table["step"].between(20, 29)]))
    whole = cells(headroom_to_break(table))
    whole[:, 20:30] = whole[:, [19]]
    np.testing.assert_array_equal(drawn, whole)


def test_rows_that_become_denser_before_the_break_leave_no_white() -> None:
    """As a run that records each tenth step, and each where something overflows."""
    table = road(steps=400)
    table = table[(table["step"] % 10 == 0) | (table["step"] > 150)]
    ax = headroom_to_break(table, break_lr=395 * 2e-4)
    assert np.isfinite(cells(ax)).all()


def test_what_is_white_is_said() -> None:
    roads = {"long": Road(road(steps=40)), "short": Road(road(steps=9))}
    (legend,) = headroom_panels(roads).legends
    assert "nothing recorded" in [text.get_text() for text in legend.get_texts()]
    (alike,) = headroom_panels({"a": Road(road()), "b": Road(road())}).legends
    assert "nothing recorded" not in [text.get_text() for text in alike.get_texts()]


def test_draws_on_given_axes() -> None:
    ax = paper_axes()
    assert headroom_to_break(road(), ax=ax) is ax


def test_panels_share_their_scale_and_show_every_road_whole() -> None:
    roads = {"Pre-LN": Road(road(steps=40), 0.0078, seed=0), "NormFormer": Road(road(steps=20))}
    figure = headroom_panels(roads)
    figure.draw_without_rendering()
    first, second, _ = figure.axes
    assert [ax.get_title(loc="left") for ax in (first, second)] == ["Pre-LN, seed 0", "NormFormer"]
    assert mesh_of(first).norm.vmax == mesh_of(second).norm.vmax
    assert cells(first).shape == cells(second).shape
    assert np.isfinite(cells(second)).sum(axis=1).tolist() == [20] * 3


@pytest.mark.parametrize("count", [1, 2, 4, 5])
def test_as_many_panels_as_runs(count: int) -> None:
    figure = headroom_panels({str(number): Road(road()) for number in range(count)})
    assert sum(ax.get_visible() for ax in figure.axes) == count + 1  # and the scale of bits


def test_the_legend_is_above_the_axes() -> None:
    ax = headroom_to_break(road(6, outside=True))
    figure_of(ax).draw_without_rendering()
    assert ax.get_legend().get_window_extent().y0 > ax.bbox.y1


def test_nothing_to_draw_is_refused() -> None:
    with pytest.raises(GradlabError, match="nothing to draw"):
        headroom_to_break(road().iloc[:0])
    with pytest.raises(GradlabError, match="nothing to draw"):
        headroom_panels({})


def test_runs_whose_rate_does_not_rise_are_drawn_against_the_step() -> None:
    roads = {"Pre-LN": Road(road().assign(lr=1e-3), 1e-3, 17), "NormFormer": Road(road(steps=9))}
    figure = headroom_panels(roads, against="step")
    figure.draw_without_rendering()
    first = figure.axes[0]
    assert cells(first).shape == (3, 18)
    assert broken_at(first) == [17]
    assert figure.get_supxlabel() == "Step"
    with pytest.raises(GradlabError, match="unknown axis 'steps': did you mean 'step'"):
        headroom_panels(roads, against="steps")


def test_a_single_step_is_a_cell() -> None:
    table = road()
    figure = headroom_panels({"Pre-LN": Road(table[table["step"] == 0])}, against="step")
    figure.draw_without_rendering()
    assert cells(figure.axes[0]).tolist() == [[12.0]] * 3
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["0"]


@pytest.mark.parametrize("against", ["step", "lr"])
def test_a_break_before_the_first_row_leaves_what_was_recorded_first(against: str) -> None:
    table = road(steps=40)
    late = Road(table[table["step"].isin([10, 20])], 3 * 2e-4, 3)
    figure = headroom_panels({"late": late}, against=against)
    figure.draw_without_rendering()
    assert broken_at(figure.axes[0]) == [late.end(against)]
    assert sorted(set(cells(figure.axes[0])[np.isfinite(cells(figure.axes[0]))])) == [7.0]
    both = headroom_panels({"late": late, "early": Road(table, 39 * 2e-4, 39)}, against=against)
    assert np.isfinite(cells(both.axes[0])).any()


def test_no_cell_is_before_the_first_step_or_after_the_end() -> None:
    """The cells that are drawn begin and end where their run did, to a pixel."""
    roads = {"long": Road(road(steps=41), None, 40), "short": Road(road(steps=30), None, 21)}
    figure = headroom_panels(roads, against="step")
    figure.draw_without_rendering()
    for ax, end in zip(figure.axes, (40, 21), strict=False):
        assert ax.get_xlim() == (0, 40)
        shown = mesh_of(ax).get_clip_box()
        left, right = ax.transData.inverted().transform([(shown.x0, 0), (shown.x1, 0)])[:, 0]
        assert (left, right) == pytest.approx((0, end))
        assert np.flatnonzero(np.isfinite(cells(ax)[0])).max() == end
        assert broken_at(ax) == [end]
