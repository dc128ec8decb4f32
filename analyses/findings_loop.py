"""What a loop of one's own did to gradients within a step, and at which steps nobody looked."""

import pandas as pd

from gradlab.analyses.finding import Finding
from gradlab.runs.reader import Run

_NAMED = 6


def loop_findings(faults: pd.DataFrame) -> list[Finding]:
    """That the loop changed gradients between two backward passes, where it did.

    Args:
        faults: The run's `faults`.
    """
    changed = faults[faults["kind"] == "changed"]
    if changed.empty:
        return []
    step = changed["step"].min()
    names = changed.loc[changed["step"] == step, "name"].tolist()
    shown = ", ".join(names[:_NAMED])
    if len(names) > _NAMED:
        shown += f" and {len(names) - _NAMED} more"
    return [
        Finding(
            "gradients changed",
            f"Between micro-batches, the backward passes of step {step}, the loop changed .grad of "
            f"{shown}: clipped, scaled or cleared it. What is recorded is what .grad held after "
            "the last pass, which is what the optimizer was given.",
        )
    ]


def not_looked_at(run: Run) -> list[Finding]:
    """That only some steps were looked at, where the user wanted it so."""
    if run.info.get("events") != "sampled":
        return []
    return [
        Finding(
            "not looked at",
            'Only the steps of the cadence were looked at (events="sampled"): what overflowed or '
            "was not finite between two of them is not in these tables.",
        )
    ]
