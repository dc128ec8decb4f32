"""What is said of whole runs: of either loop, finished or not, with tables or without."""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
import pytest
from made_up_runs import nano, write_rows

from gradlab.analyses.finding import Finding
from gradlab.analyses.findings import findings
from gradlab.config import RecordConfig, RunConfig, ScheduleConfig, StabilityConfig
from gradlab.probe_names import PROBES
from gradlab.runs.memory import MemoryWriter
from gradlab.runs.reader import Run
from gradlab.runs.verdict import Verdict

Rows = dict[str, Any]
CONFIG = nano(
    schedule=ScheduleConfig(kind="ramp", lr_step=0.1),
    steps=20,
    stability=StabilityConfig(patience=3),
    record=RecordConfig(probes=tuple(PROBES)),
)


def steps(losses: Sequence[float | None], *, skipped: Sequence[int] = (), **more: Any) -> Rows:
    n = range(len(losses))
    course = {"step": n, "lr": [0.1 * step for step in n], "loss": losses, "loss_scale": 1.0}
    return {**course, "skipped": [step in skipped for step in n], "seconds": 0.0, **more}


def recorded(
    rows: Rows | None = None,
    *,
    config: RunConfig | None = CONFIG,
    verdict: Verdict | None = None,
    status: str | None = "finished",
    info: dict[str, Any] | None = None,
) -> Run:
    writer = MemoryWriter(config, info)
    if rows:
        write_rows(writer, "steps", **rows)
    if status:
        writer.finish(status, verdict)
    return writer.run()


def told(run: Run, what: str) -> str | None:
    """The sentence of one finding, None if there is no such finding."""
    return next((found.sentence for found in findings(run) if found.what == what), None)


def test_a_break_is_told_with_its_reason() -> None:
    rows = steps([5.0, 4.0, math.nan, math.nan, math.nan])
    verdict = Verdict(reason="loss_nonfinite", step=2, lr=0.2, detected_step=4, lr_collapse=0.15)
    run = recorded(rows, verdict=verdict)
    assert told(run, "end") == (
        "Destabilised at step 2, LR 0.2: the loss was not finite, and 3 steps in a row had a loss "
        "or a gradient that was not."
    )
    assert told(run, "collapse") == (
        "At LR 0.15 the loss was back above the corpus's unigram entropy: the model had become "
        "useless."
    )
    assert told(run, "loss not finite") == "At 3 of 5 steps, first at step 2: 2–4."
    assert told(run, "loss") == (
        "5 at step 0, 4 at step 1 at its lowest, 4 at step 1, the last finite one."
    )


@pytest.mark.parametrize(
    ("losses", "last"),
    [
        ([3.0, 1.0, 2.0], "2 at step 2, the last."),
        ([3.0, math.nan, 2.0], "2 at step 2, the last."),
        ([3.0, 2.0, math.inf], "2 at step 1, the last finite one."),
    ],
)
def test_the_last_loss_is_called_finite_only_before_others_that_were_not(
    losses: list[float], last: str
) -> None:
    sentence = told(recorded(steps(losses)), "loss")
    assert sentence is not None
    assert sentence.endswith(last)


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("grad_nonfinite", "a gradient was not finite, and 3 steps in a row"),
        ("loss_scale_floor", "the loss scale fell under its floor, 0.0001."),
        ("loss_rise", "the loss rose for good, its moving average 1.5 nats above its lowest."),
    ],
)
def test_every_reason_has_its_words(reason: Any, words: str) -> None:
    verdict = Verdict(reason=reason, step=1, lr=0.1, detected_step=3)
    sentence = told(recorded(steps([1.0] * 4), verdict=verdict), "end")
    assert sentence is not None
    assert sentence.startswith("Destabilised at step 1, LR 0.1: ")
    assert words in sentence


@pytest.mark.parametrize(
    ("status", "verdict", "sentence"),
    [
        (None, None, "Still being written: 2 steps recorded, the last is step 1."),
        (
            "finished",
            Verdict(reason="completed", step=1),
            "Reached its last step: 2 steps recorded, the last is step 1.",
        ),
        (
            "interrupted",
            Verdict(reason="interrupted", step=1),
            "Interrupted before its end: 2 steps recorded, the last is step 1.",
        ),
        ("error", None, "Ended by an error: 2 steps recorded, the last is step 1."),
    ],
)
def test_other_ends(status: str | None, verdict: Verdict | None, sentence: str) -> None:
    assert told(recorded(steps([3.0, 2.0]), status=status, verdict=verdict), "end") == sentence


def test_a_run_of_another_loop() -> None:
    info = {"model": "GPT2LMHeadModel", "tables": ["steps", "grad_norms"], "error": "no memory."}
    run = recorded(
        steps([None, None], grad_norm=[None, None]), config=None, status="error", info=info
    )
    found = {finding.what: finding.sentence for finding in findings(run)}
    assert found["run"] == "A GPT2LMHeadModel, trained by a loop of its own (gradlab.attach)."
    assert found["end"] == "Ended by an error (no memory): 2 steps recorded, the last is step 1."
    assert found["no rows yet"] == "Nothing was recorded in grad_norms."
    assert found["not recorded"] == (
        "headroom, scales, scores, optimizer, hidden, entropy, states; to have them: "
        "gradlab.attach(…, probes=[gradlab.probes.Headroom(), …]), which names all that is to be "
        "recorded."
    )
    assert set(found) == {"run", "end", "no rows yet", "not recorded", "no loss"}


@pytest.mark.parametrize(
    ("losses", "sentence"),
    [
        ([None, None, None], None),
        ([3.0, 2.0, None], "At 1 of 3 steps, first at step 2: 2."),
        ([3.0, None, 2.0, None], None),  # noted every other step
        ([3.0, None, math.inf, None], "At 1 of 4 steps, first at step 2: 2."),
    ],
)
def test_a_loss_that_was_not_noted_is_no_nan(
    losses: list[float | None], sentence: str | None
) -> None:
    run = recorded(steps(losses), config=None)
    assert told(run, "loss not finite") == sentence


def test_what_was_not_recorded_is_named_with_its_option() -> None:
    run = recorded(steps([1.0]), config=CONFIG.replace(record=RecordConfig(probes=("headroom",))))
    assert findings(run)[-1].sentence == (
        "grad_norms, scales, scores, optimizer, hidden, entropy, states; to have them: --probes "
        "all."
    )
    assert "not recorded" not in [found.what for found in findings(recorded(steps([1.0])))]


@pytest.mark.parametrize("config", [CONFIG, None])
def test_no_rows_at_all(config: RunConfig | None) -> None:
    kinds = [probe.kind for probe in PROBES.values()]
    tables = ["steps", *(table for probe in PROBES.values() for table in probe.tables)]
    run = recorded(config=config, status=None, info={"tables": tables, "probes": kinds})
    assert [found.what for found in findings(run)] == ["run", "end", "no rows yet"]
    assert told(run, "end") == "Still being written: no step was recorded."


@pytest.mark.parametrize("length", [1, 4])
@pytest.mark.parametrize("config", [CONFIG, None])
def test_nan_everywhere(config: RunConfig | None, length: int) -> None:
    nan, n = math.nan, range(length)
    writer = MemoryWriter(config)
    write_rows(writer, "steps", **steps([nan] * length, loss_scale=nan, grad_norm=nan))
    place: Rows = {"step": n, "layer": 0}
    param: Rows = {**place, "op": "q", "param": "blocks.0.q.weight"}
    write_rows(writer, "grad_norms", **param, numel=4, nonfinite=4)
    write_rows(writer, "scales", **param, value=nan)
    write_rows(writer, "optimizer", **param, param_rms=nan, update_rms=nan, eps_frac=nan)
    sizes = {"max_abs": nan, "headroom_bits": nan, "underflow_frac": nan}
    write_rows(writer, "headroom", **place, op="q", site="blocks.0.q", nonfinite=4, **sizes)
    write_rows(writer, "scores", **place, site="blocks.0.scores", head=0, max=nan, max_abs=nan)
    found = {finding.what: finding for finding in findings(writer.run())}
    assert found["gradients not finite"].sentence.endswith("in 1 of 1 parameter, in every entry.")
    assert found["scores not finite"].sentence.startswith("First at blocks.0.scores, step 0")
    assert found["scales not finite"].sentence.startswith("First in blocks.0.q.weight at step 0")
    assert "parameters not finite" in found
    assert ("loss not finite" in found) == (config is not None)


def test_skipped_steps_with_the_loss_scale() -> None:
    scales = [8.0, 4.0, 2.0, 2.0, 2.0, 4.0, 4.0, 2.0]
    found = {
        finding.what: finding
        for finding in findings(recorded(steps([1.0] * 8, skipped=[0, 1, 6], loss_scale=scales)))
    }
    skipped = found["skipped steps"]
    assert skipped.sentence == (
        "The optimizer skipped 3 of 8 steps, because a gradient was not finite: 0–1, 6."
    )
    assert skipped.table is not None
    columns = ["first", "last", "lr", "loss_scale", "at_last"]
    expected = pd.DataFrame([(0, 1, 0.0, 8.0, 4.0), (6, 6, 0.6, 4.0, 4.0)], columns=columns)
    pd.testing.assert_frame_equal(skipped.table, expected)
    assert found["loss scale"].sentence == (
        "From 8 to 2: raised 1 time, lowered 3 times, between 2 and 8."
    )


def test_of_many_streaks_the_last_is_shown() -> None:
    run = recorded(steps([1.0] * 20, skipped=range(0, 20, 2)))
    found: dict[str, Finding] = {finding.what: finding for finding in findings(run, top=3)}
    table = found["skipped steps"].table
    assert table is not None
    assert table["first"].tolist() == [0, 2, 18]
    assert found["skipped steps"].sentence.endswith("0, 2, 4, 6, …, 18; 3 of 10 streaks below.")


def test_a_quiet_run_says_little() -> None:
    run = recorded(steps([2.0, 1.0]), verdict=Verdict(reason="completed", step=1))
    assert [found.what for found in findings(run)] == ["run", "end", "loss", "no rows yet"]
