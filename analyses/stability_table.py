"""Reading a stability study's table, `stability.csv`: one row a run, checked."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from gradlab.errors import GradlabError
from gradlab.runs.csv_files import read_csv, unguarded
from gradlab.runs.reader import Run
from gradlab.runs.verdict import BREAKS
from gradlab.studies.table import STABILITY

STABILITY_FILE = "stability.csv"
"""Its name in a study's folder."""

FAILURES = ("interrupted", "error")
"""Reasons that say nothing about stability: such a run is neither a break nor censored."""

QUANTITIES = ("lr", "lr_min_loss", "lr_collapse")
"""The three learning rates of a run: at the break, at the lowest loss, at the collapse."""

_DTYPES: dict[str, Any] = {
    "size": "string",
    "params": "Int64",
    "arch": "string",
    "seed": "Int64",
    "lr_step": "float64",
    "reason": "string",
    "step": "Int64",
    "lr": "float64",
    "censored": "boolean",
    "first_overflow": "string",
    "lr_min_loss": "float64",
    "lr_collapse": "float64",
}

COLUMNS = tuple(_DTYPES)
"""The columns of `stability.csv`."""

RUN_KEY = ["size", "arch", "seed", "lr_step"]
"""What tells the runs of a study apart."""


def read_stability(path: str | Path) -> pd.DataFrame:
    """The table of a stability study.

    Args:
        path: The `stability.csv`, or the study's folder.

    Returns:
        One row a run with `COLUMNS`; a run that failed has no `lr`, a break without an overflow
        no `first_overflow`.

    Raises:
        GradlabError: Where there is no such table, or it does not hold what it should.
    """
    path = Path(path)
    if path.is_dir():
        path = path / STABILITY_FILE
    try:
        table = read_csv(path, dtype={"size": "string", "arch": "string", "reason": "string"})
    except FileNotFoundError:
        raise GradlabError(
            f"there is no stability table at {path}: make one with gradlab run-stability."
        ) from None
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
        raise GradlabError(f"{path} is not a stability table: {error}.") from None
    words = table.columns.intersection(["size", "arch", "first_overflow"])
    table[words] = table[words].map(unguarded)
    try:
        return check_stability(table)
    except GradlabError as error:
        raise GradlabError(f"{path}: {error}") from None


def ramps_table(runs: Iterable[Run]) -> pd.DataFrame:
    """The table of those runs on a ramp that have ended, as a stability study has it."""
    rows = [
        STABILITY.row(run, run.verdict)
        for run in runs
        if run.config.schedule.kind == "ramp" and run.verdict is not None
    ]
    return check_stability(pd.DataFrame(rows, columns=list(STABILITY.columns)))


def check_stability(table: pd.DataFrame) -> pd.DataFrame:
    """The table with its columns in order and in their types.

    Raises:
        GradlabError: For a missing column, a value that is not of its column's type, an unknown
            reason, `censored` that contradicts it, or two rows of one run.
    """
    missing = [name for name in COLUMNS if name not in table.columns]
    if missing:
        raise GradlabError(f"a stability table needs the column {missing[0]!r}.")
    typed = table[list(COLUMNS)].copy()
    for name, dtype in _DTYPES.items():
        if typed.dtypes[name] == dtype:  # as in a table that was checked before
            continue
        try:
            typed[name] = typed[name].astype(dtype)
        except (TypeError, ValueError):
            raise GradlabError(f"the column {name!r} holds a value that is not {dtype}.") from None
    for name in ("size", "params", "arch", "seed", "lr_step", "reason"):
        if typed[name].isna().any():
            raise GradlabError(f"every row of a stability table needs a value of {name!r}.")
    known = {*BREAKS, *FAILURES, "completed"}
    strange = [reason for reason in typed["reason"] if reason not in known]
    if strange:
        raise GradlabError(f"the column 'reason' holds the unknown reason {strange[0]!r}.")
    typed["censored"] = typed["censored"].fillna(False).astype(bool)
    if (typed["censored"] != (typed["reason"] == "completed")).any():
        raise GradlabError("'censored' must be true exactly where 'reason' is completed.")
    twice = typed[typed.duplicated(RUN_KEY)]
    if len(twice):
        row = twice.iloc[0]
        raise GradlabError(
            f"two rows describe one run: {row['arch']}, size {row['size']}, seed {row['seed']}, "
            f"lr_step {row['lr_step']:g}."
        )
    return typed.reset_index(drop=True)


def observations(table: pd.DataFrame, value: str = "lr") -> pd.DataFrame:
    """One learning rate of each run that has it, and whether it is only a lower bound.

    A run that reached its last step without a break is censored: the same run without the cap
    would have broken, or found a lower loss, at its last LR or a higher one, so its `lr` and
    `lr_min_loss` are lower bounds. A collapse that was seen is exact; a censored run that had none
    enters with its last LR as the bound. A run that broke without a collapse has no `lr_collapse`.

    Args:
        table: A stability table.
        value: One of `QUANTITIES`.

    Returns:
        Columns size, params, lr_step, arch, seed, value, bound. Runs that failed, and runs that
        have no such LR, are not in it.
    """
    if value not in QUANTITIES:
        raise GradlabError(f"value = {value!r} should be one of {', '.join(QUANTITIES)}.")
    table = check_stability(table)
    table = table[~table["reason"].isin(FAILURES)]
    found, bound = table[value], table["censored"]
    if value == "lr_collapse":
        bound = bound & found.isna()
        found = found.where(~bound, table["lr"])
    rows = table[["size", "params", "lr_step", "arch", "seed"]].assign(value=found, bound=bound)
    return rows[rows["value"].notna()].reset_index(drop=True)
