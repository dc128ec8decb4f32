"""What keeps a fault from happening, where that is known: docs/inspect.md has the sources."""

import pandas as pd

from gradlab.analyses.finding import Finding
from gradlab.analyses.findings_overflow import overflow_of
from gradlab.runs.verdict import Verdict


def overflow_remedies(
    overflows: pd.DataFrame, steps: pd.DataFrame, verdict: Verdict | None = None
) -> list[Finding]:
    """What helps against the overflow that a run is told by, if it has one and that is known.

    Args:
        overflows: The run's `overflows` table.
        steps: Its `steps`.
        verdict: Says at which step the run broke.
    """
    if overflows.empty:
        return []
    event, led = overflow_of(overflows, verdict)
    if not led:
        return []
    if verdict is not None and verdict.censored and (harm := _no_harm(overflows, steps)):
        return [Finding("what came of it", harm)]
    own = str(event["producer"]).removesuffix(" gradient") == event["site"]
    if event["kind"] not in ("inf", "cast") or not own:
        return []
    if event["direction"] == "forward":
        return [Finding("what helps", "bf16 has the range of FP32, and would hold such a value.")]
    if not event["loss_scale"] > 1:
        return []
    skipped = int(steps["skipped"].sum())
    if skipped > 1:
        text = "The gradient is multiplied by the loss scale: start the scaler lower (init_scale)."
    else:
        text = "The gradient is multiplied by the loss scale, which the scaler lowers by itself."
    return [Finding("what helps", text)]


def _no_harm(overflows: pd.DataFrame, steps: pd.DataFrame) -> str | None:
    """That overflows cost a run that came to its end no more than the steps skipped, if so."""
    last = overflows["step"].max()
    after = steps[(steps["step"] > last) & ~steps["skipped"].astype(bool)]
    if after.empty or not overflows["skipped"].astype(bool).all():
        return None
    count = overflows["step"].nunique()
    were = "the step was" if count == 1 else f"the {count} steps were"
    return f"No harm that was seen: {were} skipped, and training went on to its end."
