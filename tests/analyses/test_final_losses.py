import math
from typing import Any

import pandas as pd
import pytest
from made_up_runs import nano, write_rows

import gradlab
from gradlab.analyses.final_losses import COLUMNS, final_losses
from gradlab.config import DataConfig, RecordConfig, RunConfig, ScheduleConfig
from gradlab.errors import GradlabError
from gradlab.models.presets import model_config
from gradlab.runs.memory import MemoryWriter
from gradlab.runs.reader import Run
from gradlab.runs.verdict import Verdict


def config(arch: str = "pre-ln", seed: int = 0, lr: float = 1e-3, **fields: Any) -> RunConfig:
    schedule = ScheduleConfig(kind="linear", lr=lr, warmup_steps=1)
    every = fields.get("steps", 4)
    return nano(arch, seed, **{"schedule": schedule, "steps": 4, "val_every": every, **fields})


def recorded(
    config: RunConfig, *, losses: tuple[float, ...] = (5.0, 4.0, 3.0, 2.5), val_loss: float = 2.25,
    reason: str | None = "completed", sha256: str = "a", **info: Any,
) -> Run:  # fmt: skip
    writer = MemoryWriter(config, {"corpus": {"name": "x", "sha256": sha256}, **info})
    count = len(losses)
    if count:
        write_rows(
            writer,
            "steps",
            step=list(range(count)),
            lr=[config.lr(step) for step in range(count)],
            loss=list(losses),
            val_loss=[None] * (count - 1) + [val_loss if reason == "completed" else None],
            tokens=[512 * (step + 1) for step in range(count)],
            seconds=[0.5 * (step + 1) for step in range(count)],
        )
    if reason:
        writer.finish("finished", Verdict(reason=reason, step=max(0, count - 1)))
    return writer.run()


def test_a_run_has_its_first_and_its_last_loss() -> None:
    runs = [
        recorded(config("normformer", 1)),
        recorded(config("pre-ln", 1), losses=(5.5, 9.0), reason="loss_rise"),
        recorded(config("post-ln", 1), losses=(), reason="error"),
        recorded(config("pre-ln", 2), reason=None),  # still being written
        recorded(config("pre-ln", 3), val_loss=math.nan),
    ]
    expected = [
        ["nano", "normformer", 1, 1e-3, 4, "completed", 5.0, 2.25, 2.0],
        ["nano", "pre-ln", 1, 1e-3, 4, "loss_rise", 5.5, math.nan, 1.0],
        ["nano", "post-ln", 1, 1e-3, 4, "error", math.nan, math.nan, math.nan],
        ["nano", "pre-ln", 3, 1e-3, 4, "completed", 5.0, math.nan, 2.0],
    ]
    found = final_losses(runs, vary="steps")
    pd.testing.assert_frame_equal(found, pd.DataFrame(expected, columns=COLUMNS))


def test_no_run_is_no_row() -> None:
    assert list(final_losses([], vary="lr").columns) == COLUMNS


def test_the_last_step_is_validated_whatever_val_every() -> None:
    uneven = config(val_every=3)
    runs = [recorded(uneven), recorded(uneven.replace(seed=1), val_loss=math.nan)]
    assert final_losses(runs, vary="lr")["val_loss"].tolist() == [
        2.25,
        pytest.approx(math.nan, nan_ok=True),
    ]
    old = recorded(config(val_every=2), schema_version=1)
    assert final_losses([old], vary="lr")["val_loss"].tolist() == [2.25]


def test_what_varies_may_differ() -> None:
    longer = recorded(config("normformer", steps=6), losses=(5.0,) * 6)
    assert final_losses([recorded(config()), longer], vary="steps")["steps"].tolist() == [4, 6]
    faster = recorded(config(lr=2e-3))
    assert final_losses([recorded(config()), faster], vary="lr")["lr"].tolist() == [1e-3, 2e-3]


SCHEDULE = ScheduleConfig(kind="cosine", lr=1e-3, warmup_steps=1)


@pytest.mark.parametrize(
    ("other", "vary", "sentence"),
    [
        (recorded(config("post-ln", lr=2e-3)), "steps", "their schedules differ"),
        (recorded(config(lr=2e-3, steps=6), losses=(5.0,) * 6), "lr", "their schedules differ"),
        (recorded(config("post-ln", schedule=SCHEDULE)), "lr", "their schedules differ"),
        (recorded(config("post-ln", schedule=SCHEDULE)), "steps", "their schedules differ"),
        (recorded(config("post-ln"), sha256="b"), "steps", "their corpora differ"),
        (recorded(config("post-ln", batch_size=9)), "lr", "their batches differ"),
        (recorded(config("pre-ln")), "lr", "are both pre-ln with seed 0"),
        (recorded(config("pre-ln")), "steps", "are both pre-ln with seed 0"),
        (recorded(config("post-ln", val_every=0)), "lr", "not validated after its last step"),
        (
            recorded(config("post-ln", val_every=3), val_loss=math.nan, schema_version=1),
            *("lr", "not validated after its last step"),
        ),
    ],
)
def test_runs_that_do_not_compare_are_refused(other: Run, vary: Any, sentence: str) -> None:
    with pytest.raises(GradlabError, match=sentence):
        final_losses([recorded(config()), other], vary=vary)


def test_at_equal_time_each_architecture_has_its_own_steps() -> None:
    longer = recorded(config("post-ln", steps=6), losses=(5.0,) * 6)
    found = final_losses([recorded(config()), longer], vary="lr")
    assert found.set_index("arch")["steps"]["post-ln"] == 6


def test_a_really_trained_run(tmp_path: Any) -> None:
    (tmp_path / "text.txt").write_text("a rose is a rose is a rose. " * 40)
    shape = {"d_model": 16, "n_layers": 1, "d_ff": 32, "max_seq_len": 8}
    run = gradlab.train(
        config(
            model=model_config("pre-ln", "nano", **shape),
            data=DataConfig(corpus=str(tmp_path / "text.txt")),
            record=RecordConfig(probes=()),
            batch_size=2,
            device="cpu",
        )
    )
    (row,) = final_losses([run], vary="steps").to_dict("records")
    steps = run.table("steps")
    assert row["first_loss"] == steps.loc[0, "loss"]
    assert abs(row["first_loss"] - math.log(256)) < 1
    assert row["val_loss"] == steps.loc[3, "val_loss"]
    assert row["seconds"] == steps["seconds"].max()
