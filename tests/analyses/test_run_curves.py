import math
from pathlib import Path
from typing import Any

import numpy as np
from made_up_runs import write_rows

import gradlab
from gradlab.analyses.run_curves import Line, Panel, RunCurves, run_curves
from gradlab.runs.memory import MemoryWriter
from gradlab.runs.reader import Run
from gradlab.runs.writer import RunWriter

NAN = math.nan


def recorded(**tables: dict[str, Any]) -> Run:
    """A run of somebody's own loop; what a table leaves out is alike in all rows."""
    writer = MemoryWriter(None, {"tables": list(tables)})
    for name, columns in tables.items():
        write_rows(writer, name, **{**USUAL.get(name, {}), **columns})
    return writer.run()


USUAL = {"steps": {"lr": 0.1}, "headroom": {"op": "fc2"}}


def curves_of(run: Run) -> RunCurves:
    found = run_curves(run, note=lambda sentence: None)
    assert found is not None
    return found


def panel(curves: RunCurves, title: str) -> Panel:
    (found,) = [panel for panel in curves.panels if panel.title.startswith(title)]
    return found


def points(line: Line) -> dict[int, float]:
    return dict(zip(line.steps.tolist(), line.values.tolist(), strict=True))


def test_the_course_with_gaps_and_validations_where_there_were_some() -> None:
    loss = [4.0, NAN, 3.0, math.inf]
    steps = {"step": [3, 4, 5, 6], "loss": loss, "val_loss": [None, None, 2.5, None]}
    curves = curves_of(recorded(steps={**steps, "skipped": [False, True, False, False]}))
    assert (curves.first, curves.last, curves.break_step) == (3, 6, None)
    training, validation = panel(curves, "Loss (nats)").lines
    np.testing.assert_equal(points(training), {3: 4.0, 4: NAN, 5: 3.0, 6: NAN})
    assert points(validation) == {5: 2.5}
    assert curves.events == {"skipped": [4], "loss not finite": [6]}  # at 4 it was not told


def test_a_loss_scale_is_shown_where_something_was_scaled() -> None:
    for scales, shown in (([None, None], False), ([1.0, 1.0], False), ([8.0, 8.0], True)):
        curves = curves_of(recorded(steps={"step": [0, 1], "loss_scale": scales}))
        assert ("Loss scale" in [panel.title for panel in curves.panels]) == shown
    curves = curves_of(recorded(steps={"step": [0, 1], "loss_scale": [2.0**16, 2.0**15]}))
    assert panel(curves, "Loss scale").scale == "log 2"
    for losses, scale in (
        ([1.0, 9.0], "linear"),
        ([1.0, 11.0], "log 10"),
        ([-1.0, 11.0], "linear"),
    ):
        curves = curves_of(recorded(steps={"step": [0, 1], "loss": losses, "lr": [0.1, 9.0]}))
        assert panel(curves, "Loss").scale == scale
        assert panel(curves, "Learning rate").scale == "linear"


def test_gradients_are_put_together_by_layer_and_by_operation() -> None:
    rows = [
        (0, "a.weight", 0, "q", 3.0, 0),
        (0, "b.weight", 0, "fc2", 4.0, 0),
        (0, "a.bias", 0, "q", 99.0, 0),
        (0, "c.weight", 1, "q", 12.0, 0),
        (0, "head.weight", None, "embed", 7.0, 0),
        (1, "a.weight", 0, "q", 3.0, 1),
        (1, "b.weight", 0, "fc2", 5.0, 0),
    ]
    names = ("step", "param", "layer", "op", "grad_l2", "nonfinite")
    columns = {name: [row[place] for row in rows] for place, name in enumerate(names)}
    curves = curves_of(recorded(steps={"step": [0, 1]}, grad_norms=columns))
    layers = {line.name: line for line in panel(curves, "Gradient norm by layer").lines}
    assert list(layers) == ["layer 0", "layer 1", "outside the layers"]
    np.testing.assert_equal(points(layers["layer 0"]), {0: 5.0, 1: NAN})
    assert points(layers["layer 1"]) == {0: 12.0}
    assert points(layers["outside the layers"]) == {0: 7.0}
    assert [line.depth for line in layers.values()] == [0.0, 1.0, None]
    ops = {line.name: points(line) for line in panel(curves, "Gradient norm by op").lines}
    np.testing.assert_equal(ops["q"], {0: math.hypot(3, 12), 1: NAN})
    np.testing.assert_equal(ops["fc2"], {0: 4.0, 1: 5.0})


def test_the_headroom_of_a_layer_is_its_least() -> None:
    columns = {"step": [0, 0, 1], "layer": [0, 0, 0], "site": ["a", "b", "a"]}
    headroom = {**columns, "headroom_bits": [3.0, 2.0, -math.inf]}
    curves = curves_of(recorded(steps={"step": [0, 1]}, headroom=headroom))
    (line,) = panel(curves, "Least FP16 headroom").lines
    np.testing.assert_equal(points(line), {0: 2.0, 1: NAN})
    assert panel(curves, "Least FP16 headroom").scale == "linear"


def test_what_was_lost_throughout_has_no_panel_and_nothing_no_curves() -> None:
    curves = curves_of(recorded(steps={"step": [0], "loss": [NAN], "lr": [None]}))
    assert list(curves.panels) == []
    assert run_curves(recorded(steps={"step": []}), note=lambda _: None) is None


def test_a_damaged_table_costs_its_own_curves(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path / "run", None, {"tables": ["steps", "grad_norms"]})
    write_rows(writer, "steps", step=0, lr=0.1)
    write_rows(writer, "grad_norms", step=0, param="w.weight", layer=0)
    writer.finish("finished")
    (part,) = (tmp_path / "run" / "grad_norms").iterdir()
    part.write_bytes(b"nothing")
    notes: list[str] = []
    found = run_curves(gradlab.load(tmp_path / "run"), notes.append)
    assert found is not None
    assert [panel.title for panel in found.panels] == ["Loss (nats)", "Learning rate"]
    assert len(notes) == 1
