"""The course of runs, step by step: what they show of themselves, and what happened on the way."""

from collections.abc import Sequence

import pandas as pd

from gradlab.analyses.comparable import run_keys, seed_of
from gradlab.analyses.findings_course import lost_losses
from gradlab.runs.reader import Run

EVENTS = ("skipped", "overflow", "not finite", "loss not finite")
"""What can happen at a step: the optimizer did not take it; an FP16 tensor overflowed; something
else than the loss was inf or NaN, which was no overflow; the loss was."""

_COURSE = ["step", "lr", "loss", "val_loss", "loss_scale"]


def course(runs: Sequence[Run]) -> pd.DataFrame:
    """The tables `steps` of several runs, one below the other.

    Returns:
        One row per run and step: columns arch, seed (missing of a loop of the user's own), step,
        lr, loss, val_loss, loss_scale.
    """
    parts = [
        run.table("steps", _COURSE).assign(arch=arch, seed=seed_of(run))
        for run, (_, arch, _) in zip(runs, run_keys(runs), strict=True)
    ]
    found = pd.concat([part.astype({"seed": "Int64"}) for part in parts], ignore_index=True)
    return found[["arch", "seed", *_COURSE]]


def course_events(runs: Sequence[Run]) -> pd.DataFrame:
    """What happened in runs that a curve does not show.

    Returns:
        One row per run, event and step at which there was one, however many there were of a kind:
        columns arch, seed, event (of `EVENTS`), step. An event that is not recorded is not there.

    Raises:
        GradlabError: A table is damaged.
    """
    parts = []
    for run, (_, arch, _) in zip(runs, run_keys(runs), strict=True):
        for event, steps in _events(run).items():
            known = sorted({int(step) for step in steps})
            part = {"arch": arch, "seed": seed_of(run), "event": event, "step": known}
            parts.append(pd.DataFrame(part).astype({"seed": "Int64", "step": "int64"}))
    return pd.concat(parts, ignore_index=True)


def _events(run: Run) -> dict[str, Sequence[int]]:
    """The steps of each event, in the order of `EVENTS`."""
    steps = run.table("steps", ["step", "loss", "skipped"])
    faults = run.table("faults") if "faults" in run.tables else None
    overflows: list[int] = []
    if "overflows" in run.tables:
        overflows = run.table("overflows", ["step"])["step"].tolist()
    lost: list[int] = []
    if faults is not None:
        is_lost = faults["kind"].isin(["inf", "nan", "both"]) & (faults["what"] != "loss")
        lost = faults.loc[is_lost, "step"].tolist()
    found = (steps.loc[steps["skipped"], "step"], overflows, lost, lost_losses(run, steps, faults))
    return {event: list(at) for event, at in zip(EVENTS, found, strict=True)}
