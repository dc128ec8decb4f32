"""The course of runs, against their tables."""

from typing import Any

import pandas as pd
from made_up_runs import STEPS, nano, write_rows, write_steps

from gradlab.analyses.course import course, course_events
from gradlab.runs.memory import MemoryWriter
from gradlab.runs.reader import Run

NAN = float("nan")


def own(seed: int = 0, loss: float = 2.0) -> Run:
    config = nano(seed=seed, steps=8)
    writer = MemoryWriter(config, {})
    write_steps(writer, config, loss)
    return writer.run()


def attached(
    losses: list[float | None],
    skipped: tuple[int, ...] = (),
    faults: list[tuple[int, str, str]] | None = None,
    **info: Any,
) -> Run:
    tables = ["steps", "overflows"] + (["faults"] if faults is not None else [])
    writer = MemoryWriter(None, {"model": "GPT2", "tables": tables, **info})
    steps = range(len(losses))
    write_rows(
        writer, "steps", step=steps, loss=losses, skipped=[step in skipped for step in steps]
    )
    for step, what, kind in faults or []:
        write_rows(writer, "faults", step=step, rank=0, what=what, name="x", kind=kind)
    return writer.run()


def steps_of(events: pd.DataFrame) -> dict[tuple[str, str], list[int]]:
    groups = events.groupby(["arch", "event"])["step"]
    return {key: steps.tolist() for key, steps in groups}


def test_a_row_a_step_of_every_run() -> None:
    found = course([own(0), own(1, 3.0)])
    assert found["seed"].tolist() == [0] * len(STEPS) + [1] * len(STEPS)
    assert found["loss"].tolist() == [2.0] * len(STEPS) + [3.0] * len(STEPS)
    assert course([attached([1.0])])["seed"].isna().all()


def test_events_are_the_steps_of_the_tables() -> None:
    run = attached(
        [1.0, None, 1.0, NAN],
        skipped=(2,),
        faults=[
            *((3, "loss", "nan"), (1, "parameter", "inf"), (1, "gradient", "nan")),
            (0, "gradient", "zero"),
        ],
    )
    assert steps_of(course_events([run])) == {
        ("GPT2", "skipped"): [2],
        ("GPT2", "not finite"): [1],
        ("GPT2", "loss not finite"): [3],
    }


def test_a_loss_that_was_not_noted_is_no_event() -> None:
    assert course_events([attached([None, None], faults=[])]).empty
    assert steps_of(course_events([own(loss=NAN)])) == {("pre-ln", "loss not finite"): list(STEPS)}


def test_runs_of_ones_own_are_told_apart() -> None:
    runs = [attached([1.0], meta={"norm": norm}) for norm in ("pre", "post")]
    assert course(runs)["arch"].tolist() == ["GPT2 (norm=pre)", "GPT2 (norm=post)"]
    assert course([attached([1.0]), attached([1.0])])["arch"].tolist() == ["GPT2", "GPT2 #2"]
