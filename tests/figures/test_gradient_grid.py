import math

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh

from gradlab.errors import GradlabError
from gradlab.figures.gradient_grid import gradient_grid


def norms(layers: int = 3, steps: int = 20, *, outside: bool = False) -> pd.DataFrame:
    rows = [
        (step, layer, 10.0 ** ((layer or 0) - step % 5))
        for step in range(steps)
        for layer in [*range(layers), *([None] if outside else [])]
    ]
    table = pd.DataFrame(rows, columns=["step", "layer", "value"])
    return table.astype({"layer": "Int64"})


def mesh_of(ax: Axes) -> QuadMesh:
    (mesh,) = [found for found in ax.collections if isinstance(found, QuadMesh)]
    return mesh


def cells(ax: Axes) -> np.ndarray:
    return np.ma.filled(mesh_of(ax).get_array().astype(float), np.nan)


def test_a_cell_has_the_logarithm_of_the_norm() -> None:
    table = norms()
    drawn = cells(gradient_grid({"mine": table}).axes[0])
    expected = np.log10(table.pivot(index="layer", columns="step", values="value").to_numpy())
    np.testing.assert_allclose(drawn, expected)


def test_a_cell_of_many_steps_has_the_largest_and_events_stay() -> None:
    table = norms(steps=6000).assign(value=1.0)
    table.loc[(table["layer"] == 1) & (table["step"] == 3000), "value"] = 100.0
    table.loc[(table["layer"] == 2) & (table["step"] == 5555), "value"] = math.inf
    ax = gradient_grid({"mine": table}).axes[0]
    drawn = cells(ax)
    assert drawn.shape == (3, 60)
    assert (drawn[0] == 0).all()
    assert sorted(drawn[1]) == [0.0] * 59 + [2.0]
    assert (drawn[2] > mesh_of(ax).norm.vmax).sum() == 1


def test_what_was_zero_and_what_was_not_finite_have_colours_of_their_own() -> None:
    table = norms()
    table.loc[table["layer"] == 0, "value"] = 0.0
    table.loc[table["layer"] == 2, "value"] = math.inf
    ax = gradient_grid({"mine": table}).axes[0]
    mesh = mesh_of(ax)
    assert (cells(ax)[0] < mesh.norm.vmin).all()
    assert (cells(ax)[2] > mesh.norm.vmax).all()
    assert tuple(mesh.cmap.get_over()) != tuple(mesh.cmap.get_under())


@pytest.mark.parametrize("layers", [1, 4, 12, 48])
@pytest.mark.parametrize("steps", [1, 1000])
def test_any_depth_and_length(layers: int, steps: int) -> None:
    table = norms(layers, steps, outside=True)
    figure = gradient_grid({"mine": table}, {"mine": steps - 1})
    figure.draw_without_rendering()
    assert cells(figure.axes[0]).shape == (layers + 1, min(steps, 60))


def test_runs_are_panels_on_one_scale() -> None:
    figure = gradient_grid({"a": norms(), "b": norms(layers=5)}, {"b": 7, "a": None})
    a, b, _ = figure.axes
    assert [ax.get_title(loc="left") for ax in (a, b)] == ["a", "b"]
    assert mesh_of(a).norm.vmax == mesh_of(b).norm.vmax
    assert not [line for line in a.lines if len(set(line.get_xdata())) == 1]
    assert [line.get_xdata()[0] for line in b.lines] == [7]
    assert np.isfinite(cells(b)).sum(axis=1).tolist() == [8] * 5, "nothing after the break"


def test_a_break_after_the_last_row_is_on_the_axis() -> None:
    table = norms(steps=41)
    table = table[table["step"] % 5 == 0]
    ax = gradient_grid({"mine": table}, {"mine": 48}).axes[0]
    (line,) = ax.lines
    assert line.get_xdata()[0] == ax.get_xlim()[1] == 48
    assert np.isfinite(cells(ax)).all()


@pytest.mark.parametrize("value", [0.0, math.inf])
def test_nothing_to_draw_is_refused(value: float) -> None:
    with pytest.raises(GradlabError, match="nothing to draw"):
        gradient_grid({"mine": norms().assign(value=value)})


def test_a_training_resumed_begins_at_its_first_step() -> None:
    """From 0 on, all that it recorded would be one cell of sixty."""
    table = norms()
    ax = gradient_grid({"mine": table.assign(step=table["step"] + 100_000)}).axes[0]
    np.testing.assert_array_equal(cells(ax), cells(gradient_grid({"mine": table}).axes[0]))
    ticks = [float(tick.get_text()) for tick in ax.get_xticklabels()]
    assert ticks
    assert all(100_000 <= tick < 100_020 for tick in ticks)


def drawn_over(ax: Axes, row: int) -> list[tuple[float, float, float]]:
    """Left, right and value of each stretch of equal cells of a row."""
    edges = mesh_of(ax).get_coordinates()[0, :, 0]
    found: list[tuple[float, float, float]] = []
    for left, right, value in zip(edges, edges[1:], cells(ax)[row], strict=False):
        if found and np.array_equal(found[-1][2], value, equal_nan=True):
            left = found.pop()[0]
        found.append((left, right, value))
    return found


@pytest.mark.parametrize("every", [10, 4])
@pytest.mark.parametrize("first", [0, 500])
def test_a_step_that_was_not_finite_is_a_step_wide(every: int, first: int) -> None:
    """Of rows of one step in ten; what nobody looked at is white up to the next that is known."""
    table = norms(2, steps=19)
    table["value"] = 1.0 + table["step"]
    table = table[(table["step"] % every == 0) | (table["step"] == 11)]
    table.loc[(table["step"] == 11) & (table["layer"] == 1), "value"] = math.inf
    ax = gradient_grid({"mine": table.assign(step=table["step"] + first)}, {"mine": first + 18})
    ax = ax.axes[0]
    assert ax.get_xlim() == (first, first + 18)
    (lost,) = [one for one in drawn_over(ax, 1) if one[2] > mesh_of(ax).norm.vmax]
    assert lost[:2] == (first + 10.5, first + 11.5)
    assert np.isfinite(cells(ax)[0]).all()
    assert np.isnan(cells(ax)[1, 12:]).all() == (every == 10)
    legend = [text.get_text() for text in ax.get_figure().legends[0].get_texts()]
    assert f"break, step {first + 18}" in legend
    assert ("nothing recorded" in legend) == np.isnan(cells(ax)).any()


def test_one_row_that_was_not_finite_is_not_carried_to_the_break() -> None:
    table = norms(2, steps=1).assign(value=[1.0, math.inf])
    ax = gradient_grid({"mine": table}, {"mine": 18}).axes[0]
    assert drawn_over(ax, 0) == [(0, 18, 0)]
    assert drawn_over(ax, 1)[0][:2] == (0, 0.5)
    assert np.isnan(cells(ax)[1, 1:]).all()


def test_rows_of_one_step_in_ten_stand_in_the_middle_of_their_stretch() -> None:
    table = norms(1, steps=31)
    table = table[table["step"] % 10 == 0].assign(value=[1.0, 10.0, 100.0, 1000.0])
    ax = gradient_grid({"mine": table}).axes[0]
    ends = [(round(left), round(right), value) for left, right, value in drawn_over(ax, 0)]
    assert [value for *_, value in ends] == [0, 1, 2, 3]
    middles = [0, 10, 20, 30]
    for (left, right, _), middle in zip(ends, middles, strict=True):
        assert left == pytest.approx(max(middle - 5, 0), abs=1)
        assert right == pytest.approx(min(middle + 5, 30), abs=1)
