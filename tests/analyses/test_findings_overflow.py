import math
from typing import Any

import pandas as pd
import pytest

from gradlab.analyses.findings_overflow import overflow_findings
from gradlab.runs.verdict import NOT_LOOKED_AT, Verdict

SITES = ["embed", "blocks.0.q", "blocks.0.k", "blocks.0.scores", "blocks.0.softmax", "final"]


def steps(last: int, loss_scale: float = 1.0) -> pd.DataFrame:
    n = range(last + 1)
    columns = {"step": n, "lr": [0.5 * i for i in n], "loss": [3.0] * len(n)}
    return pd.DataFrame({**columns, "loss_scale": loss_scale})


def events(*rows: tuple[int, int, str], **fields: Any) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["step", "order", "site"])
    common = {"direction": "forward", "kind": "inf", "count": 2, "numel": 8, "producer": None}
    return table.assign(**{**common, "loss_scale": 1.0, "skipped": False, **fields})


def headroom(numbers: range, over_at: int | None = None) -> pd.DataFrame:
    """Site number i has 10 + i − step / 10 bits; from the scores on −inf at one step."""
    rows = [
        (step, site, "forward", -math.inf if step == over_at and i > 2 else 10 + i - step / 10)
        for step in numbers
        for i, site in enumerate(SITES)
    ]
    table = pd.DataFrame(rows, columns=["step", "site", "direction", "headroom_bits"])
    return table.assign(dtype="float16", nonfinite=(table["headroom_bits"] == -math.inf) * 3)


def test_the_overflow_at_the_break_with_what_led_to_it() -> None:
    found = overflow_findings(
        steps(60),
        # Rows need not come in order; the one at step 3 is not what broke the run.
        events((60, 9, "blocks.0.softmax"), (60, 3, "blocks.0.scores"), (3, 0, "embed")),
        headroom(range(61), over_at=60),
        Verdict(reason="loss_nonfinite", step=60, detected_step=69),
    )
    first, led = found
    assert first.what == "first overflow"
    assert first.sentence == (
        "blocks.0.scores (step 60, LR 30): 2 of 8 entries were infinite; before the break, 1 step "
        "overflowed: 3."
    )
    assert led.sentence == (
        "blocks.0.scores had 12.0 bits left at step 10 and 7.1 at step 59, while the LR went from "
        "5 to 29.5; below, bits of headroom."
    )
    table = led.table
    assert table is not None
    assert table.columns.tolist() == ["step", "lr", "loss", *SITES[:5]]
    assert table["step"].tolist() == [10, 40, 50, 55, 59, 60]
    assert table["lr"].tolist() == [0.5 * step for step in table["step"]]
    assert table["embed"].tolist() == [10 - step / 10 for step in table["step"]]
    assert table["blocks.0.scores"].tolist() == [12.0, 9.0, 8.0, 7.5, 7.1, -math.inf]


def test_without_a_verdict_it_is_the_runs_first() -> None:
    table = events(
        (7, 1, "blocks.0.k"), (7, 2, "final"), (9, 0, "embed"), loss_scale=64.0, skipped=True
    ).assign(direction="backward", count=1, producer="blocks.0 (between its modules)")
    (first,) = overflow_findings(steps(9), table, None)
    assert first.sentence == (
        "blocks.0 (between its modules) (step 7, LR 3.5, loss scale 64, skipped): 1 of 8 entries "
        "was infinite; 1 later step overflowed too."
    )


@pytest.mark.parametrize(
    ("reason", "cause"),
    [("loss_rise", "the loss rose for good"), ("loss_nonfinite", "the loss was not finite")],
)
def test_an_early_overflow_is_not_told_to_have_led_to_the_break(reason: Any, cause: str) -> None:
    verdict = Verdict(reason=reason, step=8, detected_step=8)
    (first,) = overflow_findings(
        steps(9), events((0, 0, "embed"), (1, 0, "embed")), headroom(range(10)), verdict
    )
    assert first.sentence == (
        f"None led to the break at step 8: {cause}. The run's first: embed (step 0, LR 0): 2 of 8 "
        "entries were infinite; 1 later step overflowed too."
    )


def test_a_skipped_step_is_not_what_made_the_loss_rise() -> None:
    verdict = Verdict(reason="loss_rise", step=8, detected_step=8)
    skipped = events((8, 0, "embed"), skipped=True)
    (first,) = overflow_findings(steps(9), skipped, headroom(range(10)), verdict)
    assert first.sentence.startswith("None led to the break at step 8: the loss rose for good.")


def test_an_overflow_that_skipped_no_step_may_have() -> None:
    # As of scores of −inf, which the softmax takes for a mask.
    verdict = Verdict(reason="loss_rise", step=8, detected_step=8, first_overflow="embed")
    table = events((7, 0, "final"), (8, 0, "embed"), (9, 0, "final"))
    (first, _) = overflow_findings(steps(9), table, headroom(range(10)), verdict)
    assert first.sentence.startswith("embed (step 8, LR 4): 2 of 8 entries were infinite")


def test_what_overflowed_after_the_streak_did_not_break_the_run() -> None:
    verdict = Verdict(
        reason="grad_nonfinite", step=8, detected_step=17, first_overflow=NOT_LOOKED_AT
    )
    (first,) = overflow_findings(
        steps(30), events((1, 0, "embed"), (18, 0, "final")), None, verdict
    )
    assert first.sentence.startswith(
        "Step 8, where the run broke, was not looked at. The run's first: embed (step 1,"
    )


def test_a_break_that_was_not_looked_at_is_told_by_the_next_overflow() -> None:
    verdict = Verdict(
        reason="grad_nonfinite", step=8, detected_step=17, first_overflow=NOT_LOOKED_AT
    )
    early = (0, 0, "embed")
    (first,) = overflow_findings(steps(17), events(early, (9, 0, "final")), None, verdict)
    assert first.sentence.startswith("final (step 9,")
    assert first.sentence.endswith("; step 8, where the break began, was not looked at.")
    (first,) = overflow_findings(steps(17), events(early), None, verdict)
    assert first.sentence.startswith(
        "Step 8, where the run broke, was not looked at. The run's first: embed (step 0,"
    )


def test_an_overflow_without_numbers() -> None:
    table = events((0, 0, "blocks.0.q"), count=None, kind="nan", direction="backward")
    unknown = steps(0).assign(lr=math.nan, loss=math.nan)
    first, led = overflow_findings(
        unknown, table, headroom(range(1)).assign(direction="backward", headroom_bits=-math.inf)
    )
    assert first.sentence == "blocks.0.q gradient (step 0): entries were NaN."
    assert led.sentence == (
        "blocks.0.q gradient was not recorded before it overflowed; below, bits of headroom."
    )
    assert led.table is not None
    assert led.table.columns.tolist() == ["step", *(f"{site} gradient" for site in SITES[:3])]


def test_sampled_steps_stand_for_those_between() -> None:
    recorded = headroom(range(0, 41, 8), over_at=40)
    led = overflow_findings(steps(40), events((40, 3, "blocks.0.scores")), recorded)[1]
    assert led.table is not None
    assert led.table["step"].tolist() == [16, 24, 32, 40]


def test_the_loss_scale_is_told_where_it_rose() -> None:
    rows = steps(30)
    rows["loss_scale"] = [64.0] * 20 + [128.0] * 11
    table = headroom(range(31), over_at=30)
    led = overflow_findings(rows, events((30, 3, "blocks.0.scores")), table)[1]
    assert "the LR went from 5 to 14.5 and the loss scale went from 64 to 128" in led.sentence
    assert led.table is not None
    assert led.table["loss_scale"].tolist() == [64.0, 128.0, 128.0, 128.0, 128.0]


def test_a_step_without_headroom_has_no_lead_up() -> None:
    table = events((5, 3, "blocks.0.scores"))
    assert len(overflow_findings(steps(5), table, headroom(range(5)))) == 1


def test_nothing_overflowed() -> None:
    (none,) = overflow_findings(steps(3), events(), headroom(range(3)))
    assert none.sentence == "None: every FP16 tensor that was looked at stayed finite."
    (none,) = overflow_findings(steps(3), events(), headroom(range(3)).assign(dtype="bfloat16"))
    assert none.sentence == "None: no tensor that was looked at is FP16."
    assert overflow_findings(steps(3), events(), None) == []
    assert overflow_findings(steps(3), events(), headroom(range(0))) == []


def test_without_fp16_the_first_place_that_was_not_finite_is_named() -> None:
    wide = headroom(range(4), over_at=2).assign(dtype="bfloat16")
    # Nor is anything finite at the next step, from its first place on: that is no beginning.
    wide.loc[wide["step"] == 3, ["headroom_bits", "nonfinite"]] = (-math.inf, 8)
    (began,) = overflow_findings(steps(3), events(), wide)
    assert began.what == "first not finite"
    assert began.sentence == (
        "At blocks.0.scores (forward), step 2: 3 entries; no tensor that was looked at is FP16, so "
        "it is no overflow event."
    )


def test_what_was_not_looked_at_or_counted_is_not_claimed() -> None:
    wide = headroom(range(0, 21, 10), over_at=20).assign(dtype="float32", direction="backward")
    wide["nonfinite"] = pd.array([0, None] * 9, dtype="Int64")
    (began,) = overflow_findings(steps(20), events(), wide)
    assert began.sentence == (
        "At blocks.0.scores (backward), step 20; no tensor that was looked at is FP16, so it is no "
        "overflow event; at step 10, the last looked at before, all was finite."
    )
    (began,) = overflow_findings(steps(20), events(), wide, exact=True)
    assert "step 10" not in began.sentence  # step 19 was looked at, and has no rows
    wide.loc[wide["site"] == "embed", "nonfinite"] = 1
    (began,) = overflow_findings(steps(20), events(), wide)
    assert began.sentence.startswith("At embed (backward), step 0: 1 entry; ")


@pytest.mark.parametrize("producer", ["the loss", None])
@pytest.mark.parametrize("rank", [0, 1, None])
def test_another_process_than_the_first_is_named(rank: int | None, producer: str | None) -> None:
    at = {"rank": rank, "direction": "backward", "producer": producer}
    (overflow,) = overflow_findings(steps(9), events((3, 5, "embed"), **at), None)
    fault = {"step": [3], "name": ["embed"], "what": "gradient", "kind": "inf", "count": 2}
    faults = pd.DataFrame(fault).assign(**at, function=None, source=None)
    bfloat = headroom(range(9)).assign(dtype="bfloat16")
    (first,) = overflow_findings(steps(9), events(), bfloat, None, faults)
    assert first.what == "first not finite"
    for finding in (overflow, first):
        assert ("on rank 1" in finding.sentence) == (rank == 1)
        assert ("rank" in finding.sentence) == (rank == 1)
