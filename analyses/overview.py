"""Runs at a glance: how each ended, a row a run."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from gradlab.errors import GradlabError
from gradlab.runs.reader import Run

_COLUMNS: Mapping[str, str] = {
    "run": "object",
    "arch": "object",
    "size": "object",
    "seed": "Int64",
    "objective": "object",
    "precision": "object",
    "status": "object",
    "reason": "object",
    "step": "Int64",
    "lr": "float64",
    "first_overflow": "object",
    "lr_min_loss": "float64",
    "lr_collapse": "float64",
    "steps": "Int64",
    "skipped": "Int64",
    "loss": "float64",
    "lowest_loss": "float64",
    "val_loss": "float64",
    "seconds": "float64",
    "problem": "object",
}


def overview(runs: Mapping[str, Run]) -> pd.DataFrame:
    """How each run ended, as far as it got.

    Args:
        runs: The runs by name, of any loop, finished or not.

    Returns:
        One row per run: columns run (its name), arch, size, seed, objective, precision (of a run
        recorded by `gradlab.attach` arch is its model, others are missing), status, the verdict's
        reason, step, lr, first_overflow, lr_min_loss, lr_collapse (missing without a verdict);
        and of the `steps` table steps (rows), skipped, loss (the last), lowest_loss (the lowest
        finite one), val_loss (the lowest finite one; NaN without validation), seconds. Where that
        table cannot be read, these are missing and problem says why.
    """
    rows = [{"run": name, **_identity(run), **_ending(run), **_course(run)}
            for name, run in runs.items()]  # fmt: skip
    return pd.DataFrame(rows, columns=list(_COLUMNS)).astype(dict(_COLUMNS))


def _identity(run: Run) -> dict[str, Any]:
    if run.attached:
        return {"arch": run.info.get("model")}
    config = run.config
    return {
        "arch": config.arch,
        "size": config.size,
        "seed": config.seed,
        "objective": config.model.objective,
        "precision": config.precision.name,
    }


def _ending(run: Run) -> dict[str, Any]:
    names = ("reason", "step", "lr", "first_overflow", "lr_min_loss", "lr_collapse")
    return {"status": run.status} | {name: getattr(run.verdict, name, None) for name in names}


def _course(run: Run) -> dict[str, Any]:
    try:
        steps = run.table("steps", ["loss", "val_loss", "skipped", "seconds"])
    except GradlabError as error:
        return {"problem": str(error)}
    return {
        "steps": len(steps),
        "skipped": int(steps["skipped"].sum()),
        "loss": _last(steps["loss"]),
        "lowest_loss": _lowest(steps["loss"]),
        "val_loss": _lowest(steps["val_loss"]),
        "seconds": _last(steps["seconds"]),
    }


def _last(values: "pd.Series[float]") -> float:
    return float(values.iloc[-1]) if len(values) else math.nan


def _lowest(values: "pd.Series[float]") -> float:
    finite = values[values.abs() < math.inf]
    return float(finite.min()) if len(finite) else math.nan
