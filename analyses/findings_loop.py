"""What a loop of one's own did to gradients within a step, and at which steps nobody looked."""

import pandas as pd

from gradlab.analyses.finding import Finding, listed, spans
from gradlab.runs.reader import Run

_NAMED = 6


def loop_findings(faults: pd.DataFrame) -> list[Finding]:
    """What the loop did to gradients that it should not, and which it left without an optimizer.

    Args:
        faults: The run's `faults`.
    """
    return [*_changed(faults), *_never_cleared(faults), *_unheld(faults)]


def kept_findings(run: Run) -> list[Finding]:
    """Which steps are kept, to be done again."""
    kept = run.info.get("kept")
    if not kept:
        return []
    steps, folder = kept["steps"], kept["folder"]
    what = "it" if len(steps) == 1 else "the last of them"
    return [
        Finding(
            "kept",
            f"Step {spans(steps)}, in {folder}: gradlab.replay({folder!r}, model) does {what} "
            "again, down to the operation.",
        )
    ]


def _never_cleared(faults: pd.DataFrame) -> list[Finding]:
    kept = never_cleared(faults)
    if kept.empty:
        return []
    name, step = kept.iloc[0][["name", "step"]]
    return [
        Finding(
            "gradients never cleared",
            f"At step {step} the optimizer was given the gradients of the steps before as well: "
            f".grad of {name} had not been cleared, and passes added to it. What is not finite "
            "stays so. Call optimizer.zero_grad() once a step, before its first pass.",
        )
    ]


def never_cleared(faults: pd.DataFrame) -> pd.DataFrame:
    """The faults that say that gradients were carried over from step to step."""
    return faults[faults["kind"] == "kept"]


def _unheld(faults: pd.DataFrame) -> list[Finding]:
    names = faults.loc[faults["kind"] == "unheld", "name"].tolist()
    if not names:
        return []
    verb = "gets a gradient and is" if len(names) == 1 else "get gradients and are"
    return [
        Finding(
            "not trained",
            f"{listed(names)} {verb} never updated: no optimizer that attach was given holds "
            f"{'it' if len(names) == 1 else 'them'}. Make the optimizer once the model is "
            "complete, or freeze what is not to be trained (requires_grad_(False)).",
        )
    ]


def _changed(faults: pd.DataFrame) -> list[Finding]:
    """That it changed them between two backward passes."""
    changed = faults[faults["kind"] == "changed"]
    if changed.empty:
        return []
    step = changed["step"].min()
    names = changed.loc[changed["step"] == step, "name"].tolist()
    return [
        Finding(
            "gradients changed",
            f"Between micro-batches, the backward passes of step {step}, the loop changed .grad of "
            f"{listed(names, _NAMED)}: clipped, scaled or cleared it. What is recorded is what "
            ".grad held after the last pass, which is what the optimizer was given.",
        )
    ]


def not_looked_at(run: Run) -> list[Finding]:
    """That only some steps were looked at, where the user wanted it so."""
    events = run.info.get("events")
    sentences = {
        "sampled": 'Only the steps of the cadence were looked at (events="sampled"): what '
        "overflowed or was not finite between two of them is not in these tables.",
        "skipped": "Between the steps of the cadence only those with a gradient that was not "
        'finite were looked at (events="skipped"): what overflowed in others, as an infinity '
        "that a clamp hid, is not in these tables.",
    }
    return [Finding("not looked at", sentences[events])] if events in sentences else []
