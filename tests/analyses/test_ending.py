from typing import get_args

import pandas as pd
import pytest
from made_up_runs import nano

from gradlab.analyses.ending import CAUSES, ENDS, end_sentence, ending
from gradlab.runs.document import STOPPED, Status
from gradlab.runs.memory import MemoryWriter
from gradlab.runs.verdict import BREAKS, Reason, Verdict


@pytest.mark.parametrize("reason", get_args(Reason))
def test_every_verdict_has_its_words(reason: Reason) -> None:
    writer = MemoryWriter(nano(), {})
    writer.finish("error" if reason == "error" else "finished", Verdict(reason=reason, step=3))
    run = writer.run()
    words = CAUSES[reason] if reason in BREAKS else ENDS[reason]
    assert words in ending(run)
    assert words.lower() in end_sentence(run).lower()
    assert ending(run).startswith("broke: ") == (reason in BREAKS)


def test_every_status_has_its_words_and_nothing_else() -> None:
    assert set(CAUSES) == set(BREAKS)
    assert set(ENDS) == {*get_args(Status), STOPPED, *get_args(Reason)} - set(BREAKS)


def test_why_it_failed_and_what_was_recorded() -> None:
    writer = MemoryWriter(None, {"model": "GPT2", "tables": ["steps"]})
    writer.finish("error", error="The disk is full.")
    assert end_sentence(writer.run()) == "Ended by an error (The disk is full)."
    for steps, recorded in (
        ([], "no step was recorded"),
        ([0, 1], "2 steps recorded, the last is step 1"),
    ):
        assert end_sentence(writer.run(), pd.DataFrame({"step": steps})) == (
            f"Ended by an error (The disk is full): {recorded}."
        )


@pytest.mark.parametrize(
    ("error", "told"),
    [("SIGTERM", " (SIGTERM)"), ("Ctrl-C", " (Ctrl-C)"), ("KeyboardInterrupt", ""), (None, "")],
)
def test_what_interrupted_a_run_is_named_where_it_was_noted(error: str | None, told: str) -> None:
    writer = MemoryWriter(nano(), {})
    writer.finish("interrupted", Verdict(reason="interrupted", step=3), error=error)
    assert end_sentence(writer.run()) == f"Interrupted before its end{told}."
