import math

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes

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


def curves(ax: Axes) -> list[tuple[np.ndarray, np.ndarray]]:
    return [line.get_data() for line in ax.lines if line.get_marker() == "None"]


def test_a_line_a_layer_over_the_finite_headroom() -> None:
    table = road()
    ax = headroom_to_break(table)
    drawn = [data for data in curves(ax) if len(data[0]) > 2]
    assert len(drawn) == 3
    finite = table[np.isfinite(table["headroom_bits"]) & (table["layer"] == 0)]
    np.testing.assert_allclose(drawn[0], [finite["lr"], finite["headroom_bits"]])


def test_colours_go_from_dark_to_light_with_depth() -> None:
    ax = headroom_to_break(road(layers=8))
    shades = [line.get_color() for line in ax.lines if len(line.get_xdata()) > 2]
    lightness = [0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b, _ in shades]
    assert len(lightness) == 8
    assert lightness == sorted(lightness)


def test_overflows_are_marks_at_the_bottom_each_layer_at_its_height() -> None:
    ax = headroom_to_break(road())
    marks = [line for line in ax.lines if line.get_marker() == "x"]
    heights = [line.get_ydata()[0] for line in marks]
    assert len(set(heights)) == 3
    assert all(ax.get_ylim()[0] < height < 0 for height in heights)
    np.testing.assert_allclose([line.get_xdata() for line in marks], [[19 * 2e-4]] * 3)


def test_zero_bits_and_the_break_are_marked() -> None:
    ax = headroom_to_break(road(), break_lr=0.003)
    assert any(set(y) == {0} and len(y) == 2 for _, y in curves(ax))
    assert any(list(x) == [0.003, 0.003] for x, _ in curves(ax))


def test_negative_headroom_is_shown_above_the_strip() -> None:
    table = road()
    table.loc[0, "headroom_bits"] = -4.0
    ax = headroom_to_break(table)
    marks = [line.get_ydata()[0] for line in ax.lines if line.get_marker() == "x"]
    assert max(marks) < -4 < 0
    assert min(ax.get_yticks()) >= -4


def test_many_layers_have_a_legend_of_some() -> None:
    texts = [t.get_text() for t in headroom_to_break(road(32)).get_legend().get_texts()]
    assert len(texts) == 8
    assert {"layer 0", "31"} < set(texts)


def test_sites_outside_the_blocks_have_a_line() -> None:
    ax = headroom_to_break(road(outside=True))
    assert "outside" in [text.get_text() for text in ax.get_legend().get_texts()]


def test_a_run_that_never_overflowed_has_no_marks() -> None:
    table = road()
    ax = headroom_to_break(table[np.isfinite(table["headroom_bits"])])
    assert not any(len(line.get_xdata()) for line in ax.lines if line.get_marker() == "x")


def test_draws_on_given_axes() -> None:
    ax = paper_axes()
    assert headroom_to_break(road(), ax=ax) is ax


def test_panels_share_their_scale_and_show_every_road_whole() -> None:
    roads = {"Pre-LN": Road(road(steps=40), 0.0078), "NormFormer": Road(road(steps=20))}
    figure = headroom_panels(roads)
    figure.draw_without_rendering()
    axes = [ax for ax in figure.axes if ax.get_visible()]
    assert [ax.get_title(loc="left") for ax in axes] == ["Pre-LN", "NormFormer"]
    assert len({ax.get_xlim() for ax in axes}) == len({ax.get_ylim() for ax in axes}) == 1
    assert axes[0].get_xlim()[1] > 39 * 2e-4


@pytest.mark.parametrize("count", [1, 2, 4, 5])
def test_as_many_panels_as_runs(count: int) -> None:
    figure = headroom_panels({str(number): Road(road()) for number in range(count)})
    assert sum(ax.get_visible() for ax in figure.axes) == count


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
    first, _ = figure.axes
    drawn = [data for data in curves(first) if len(data[0]) > 2]
    assert list(drawn[0][0]) == list(range(19))
    assert any(list(x) == [17, 17] for x, _ in curves(first))
    assert figure.get_supxlabel() == "Step"
    with pytest.raises(GradlabError, match="unknown axis 'steps': did you mean 'step'"):
        headroom_panels(roads, against="steps")


def test_a_single_step_is_a_point() -> None:
    table = road()
    figure = headroom_panels({"Pre-LN": Road(table[table["step"] == 0])}, against="step")
    figure.draw_without_rendering()
    (ax,) = figure.axes
    assert [line.get_marker() for line in ax.lines if list(line.get_ydata()) == [12]] == ["o"] * 3
    assert all(tick == round(tick) for tick in ax.get_xticks())
