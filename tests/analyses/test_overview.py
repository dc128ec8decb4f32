import math
from typing import Any

import pandas as pd
import pytest
from made_up_runs import nano, write_rows

from gradlab.analyses.overview import overview
from gradlab.config import ScheduleConfig
from gradlab.runs.memory import MemoryWriter
from gradlab.runs.reader import Run
from gradlab.runs.verdict import Verdict


def made_up(
    losses: list[float] | None,
    verdict: Verdict | None,
    *,
    attached: bool = False,
    vals: list[float | None] | None = None,
) -> Run:
    config = nano(seed=4, schedule=ScheduleConfig(kind="ramp", lr_step=1e-3))
    writer = MemoryWriter(None if attached else config, {"model": "GPT2", "tables": ["steps"]})
    if losses is not None:
        steps = list(range(len(losses)))
        write_rows(
            writer,
            "steps",
            step=steps,
            lr=[1e-3 * step for step in steps],
            loss=losses,
            val_loss=vals,
            skipped=[step == 1 for step in steps],
            seconds=[0.5 * step for step in steps],
        )
    if verdict is not None:
        writer.finish("finished", verdict)
    return writer.run()


BROKE = Verdict(
    reason="loss_nonfinite", step=2, lr=2e-3, first_overflow="blocks.0.attention.scores"
)


def test_a_row_says_how_a_run_ended() -> None:
    (row,) = overview({"a": made_up([5.0, 3.0, math.nan], BROKE)}).to_dict("records")
    expected = {
        "run": "a",
        "arch": "pre-ln",
        "size": "nano",
        "seed": 4,
        "precision": "fp32",
        "status": "finished",
        "reason": "loss_nonfinite",
        "step": 2,
        "lr": 2e-3,
        "first_overflow": "blocks.0.attention.scores",
        "steps": 3,
        "skipped": 1,
        "lowest_loss": 3.0,
        "seconds": 1.0,
    }
    assert {name: row[name] for name in expected} == expected
    assert math.isnan(row["loss"])
    assert math.isnan(row["val_loss"])
    assert pd.isna(row["problem"])


def test_the_lowest_losses_are_over_finite_ones() -> None:
    losses = [math.inf, 4.0, 2.5, 2.75]
    (row,) = overview({"a": made_up(losses, None, vals=[None, 3.5, 3.25, math.nan])}).to_dict(
        "records"
    )
    assert (row["lowest_loss"], row["loss"], row["val_loss"]) == (2.5, 2.75, 3.25)


@pytest.mark.parametrize("losses", [None, [], [math.nan] * 3])
def test_a_run_without_a_finite_loss_has_none(losses: list[float] | None) -> None:
    (row,) = overview({"a": made_up(losses, None)}).to_dict("records")
    assert math.isnan(row["lowest_loss"])
    assert row["steps"] == len(losses or [])
    assert pd.isna(row["reason"])


def test_an_attached_run_has_its_model_and_no_seed() -> None:
    (row,) = overview({"a": made_up([1.0], None, attached=True)}).to_dict("records")
    assert row["arch"] == "GPT2"
    assert pd.isna(row["size"])
    assert pd.isna(row["seed"])


def test_columns_have_one_type_whatever_the_runs() -> None:
    some = overview({"a": made_up([5.0], BROKE), "b": made_up([1.0], None, attached=True)})
    none = overview({})
    assert list(some.dtypes) == list(none.dtypes)


def test_a_table_that_cannot_be_read_is_a_problem(tmp_path: Any) -> None:
    from gradlab.runs.reader import load
    from gradlab.runs.writer import RunWriter

    writer = RunWriter(tmp_path / "run", made_up([1.0], None).config, {})
    writer.finish("finished", BROKE)
    (tmp_path / "run" / "steps").mkdir(exist_ok=True)
    (tmp_path / "run" / "steps" / "part-000000.parquet").write_bytes(b"PAR1 and no more")
    (row,) = overview({"a": load(tmp_path / "run")}).to_dict("records")
    assert "part-000000.parquet" in row["problem"]
    assert row["reason"] == "loss_nonfinite"
