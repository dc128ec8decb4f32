"""What keeps a fault from happening, where that is known: docs/inspect.md has the sources."""

import pandas as pd

from gradlab.analyses.finding import Finding


def overflow_remedies(overflows: pd.DataFrame, steps: pd.DataFrame) -> list[Finding]:
    """What helps against a run's first overflow, if it has one and that is known.

    Args:
        overflows: The run's `overflows` table.
        steps: Its `steps`.
    """
    if overflows.empty:
        return []
    event = overflows.sort_values(["step", "order"], kind="stable").iloc[0]
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
