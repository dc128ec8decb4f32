"""How a run ended, in words."""

from collections.abc import Mapping
from types import MappingProxyType

import pandas as pd

from gradlab.analyses.finding import counted, figure
from gradlab.runs.reader import Run
from gradlab.runs.verdict import Verdict

CAUSES: Mapping[str, str] = MappingProxyType(
    {
        "loss_nonfinite": "the loss was not finite",
        "grad_nonfinite": "a gradient was not finite",
        "loss_scale_floor": "the loss scale fell under its floor",
        "loss_rise": "the loss rose for good",
    }
)
"""Why a run destabilised, by its verdict's reason."""

ENDS: Mapping[str, str] = MappingProxyType(
    {
        "completed": "reached its last step",
        "interrupted": "interrupted before its end",
        "error": "ended by an error",
        "finished": "recorded to its end, which gradlab.attach does not judge",
        "running": "still being written",
        "stopped": "killed, or kept from writing, before its end",
    }
)
"""How any other run ended, by its verdict's reason, or its status where it has no verdict."""


def ending(run: Run) -> str:
    """How a run ended, in a few words."""
    verdict = run.verdict
    if verdict is not None and verdict.broke:
        return f"broke: {CAUSES[verdict.reason]}"
    return ENDS[run.status if verdict is None else verdict.reason]


def end_sentence(run: Run, steps: pd.DataFrame | None = None) -> str:
    """How a run ended: where and why it destabilised, or what was recorded of it otherwise.

    Args:
        run: The run.
        steps: Its table `steps`; None where it cannot be read.
    """
    if run.verdict is not None and run.verdict.broke:
        return _break(run, run.verdict)
    words = ending(run)
    told = str(run.info.get("error") or "").rstrip(".")
    if told == KeyboardInterrupt.__name__:  # in runs of before gradlab said which signal it was
        told = ""
    how = f"{words[0].upper()}{words[1:]}{f' ({told})' if told else ''}"
    if steps is None:
        return f"{how}."
    if steps.empty:
        return f"{how}: no step was recorded."
    last = steps["step"].iloc[-1]
    return f"{how}: {counted(len(steps), 'step')} recorded, the last is step {last}."


def _break(run: Run, verdict: Verdict) -> str:
    stability, cause = run.config.stability, CAUSES[verdict.reason]
    start = f"Destabilised at step {verdict.step}"
    if verdict.lr is not None:
        start += f", LR {figure(verdict.lr)}"
    if verdict.reason == "loss_scale_floor":
        return f"{start}: {cause}, {figure(stability.loss_scale_floor)}."
    if verdict.reason == "loss_rise":
        margin = figure(stability.margin)
        return f"{start}: {cause}, its moving average {margin} nats above its lowest."
    length = stability.patience
    if verdict.detected_step is not None and verdict.step is not None:
        length = verdict.detected_step - verdict.step + 1
    return (
        f"{start}: {cause}, and {counted(length, 'step')} in a row had a loss or a gradient that "
        "was not."
    )
