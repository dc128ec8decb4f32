"""How low each run's validation loss is in the end: the rows on which studies of it rest."""

import math
from collections.abc import Iterable
from typing import Literal

import pandas as pd

from gradlab.analyses.comparable import check_comparable, name_of, what_differs
from gradlab.analyses.validations import planned_validations
from gradlab.errors import GradlabError
from gradlab.runs.reader import Run

Varied = Literal["steps", "lr"]

COLUMNS = [
    *["size", "arch", "seed", "lr", "steps", "reason"],
    *["first_loss", "val_loss", "seconds"],
]


def final_losses(runs: Iterable[Run], *, vary: Varied) -> pd.DataFrame:
    """The loss of each run that has ended, at its first step and after its last.

    Args:
        runs: Runs of one setting, by architecture and seed. Those still being written are left
            out.
        vary: What else of their schedules may differ: the number of `steps`, or the peak `lr`; and
            beside it the steps of different architectures, as at equal time.

    Returns:
        One row per run, in the order given: columns size, arch, seed, lr (the peak), steps (that
        it was to take), reason (of its end), first_loss (training loss of the first batch, before
        any update: the loss at initialisation), val_loss (validation loss after the last step;
        NaN where the run did not get there, and where it destabilised), seconds (that its steps
        took). Losses in nats a token.

    Raises:
        GradlabError: The runs do not compare, two are the same, or one that reached its last step
            was not validated there.
    """
    runs = [run for run in runs if run.verdict is not None]
    _check_setting(runs, vary)
    return pd.DataFrame([_row(run) for run in runs], columns=COLUMNS)


def _check_setting(runs: list[Run], vary: Varied) -> None:
    """See that the runs differ in architecture, seed and what varies, and in nothing else."""
    alike: dict[object, list[Run]] = {}
    of_arch: dict[str, int] = {}
    for run in runs:
        word = what_differs(runs[0], run, free=("schedules",))
        steps = of_arch.setdefault(run.config.arch, run.config.steps)
        is_longer = vary == "lr" and run.config.steps != steps
        if word is None and (is_longer or _schedule(run, vary) != _schedule(runs[0], vary)):
            word = "schedules"
        if word:
            raise GradlabError(
                f"{name_of(run)} and {name_of(runs[0])} do not compare: their {word} differ."
            )
        alike.setdefault(run.config.schedule.lr if vary == "lr" else None, []).append(run)
    for group in alike.values():
        check_comparable(group, free=("schedules",))


def _schedule(run: Run, vary: Varied) -> object:
    schedule = run.config.schedule.model_dump()
    return {name: value for name, value in schedule.items() if name != vary}


def _row(run: Run) -> dict[str, object]:
    config, verdict = run.config, run.verdict
    assert verdict is not None
    steps = pd.DataFrame({"step": [], "loss": [], "val_loss": [], "seconds": []})
    if "steps" in run.tables:
        steps = run.table("steps", list(steps.columns))
    val_loss = math.nan
    if run.completed:
        val_loss = _last_validation(run, steps)
    return {
        "size": config.size_label,
        "arch": config.arch,
        "seed": config.seed,
        "lr": config.schedule.lr,
        "steps": config.steps,
        "reason": verdict.reason,
        "first_loss": float(steps["loss"].iloc[0]) if len(steps) else math.nan,
        "val_loss": val_loss,
        "seconds": float(steps["seconds"].iloc[-1]) if len(steps) else math.nan,
    }


def _last_validation(run: Run, steps: pd.DataFrame) -> float:
    last = steps.iloc[[-1]]
    if not planned_validations(run, last).all():
        raise GradlabError(
            f"{name_of(run)} was not validated after its last step: train it with --val-every."
        )
    return float(last["val_loss"].iloc[0])
