"""After which steps a run was validated, as far as its config says."""

import pandas as pd

from gradlab.runs.reader import Run

_LAST_TOO = 2
"""The first format (`gradlab.runs.schema.SCHEMA_VERSION`) whose runs are validated after their last
step whatever `val_every`."""


def planned_validations(run: Run, steps: pd.DataFrame) -> "pd.Series[bool]":
    """Which steps a validation was to come after: at these, a NaN is what it found.

    Args:
        run: A run of the built-in loop.
        steps: Rows of its table `steps`, with the column step.

    Returns:
        A flag a row.
    """
    config = run.config
    planned = steps["step"].map(config.validates_after).astype(bool)
    if run.info["schema_version"] >= _LAST_TOO or not config.val_every:
        return planned
    return planned & ((steps["step"] + 1) % config.val_every == 0)
