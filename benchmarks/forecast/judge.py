"""Thresholds from some runs, and what they are worth on others."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from benchmarks.forecast.signals import Watched

AHEAD = 30
"""Steps before a break from which on a warning is of use."""

FALSE_ALARMS = 0.05
"""Share of steady runs in which there may be a warning."""


def threshold(runs: Sequence[Watched], name: str) -> float:
    """The lowest that a signal passes in no more than `FALSE_ALARMS` of the steady runs."""
    most = sorted((run.signals[name].max() for run in runs if run.break_step is None), reverse=True)
    return float(most[int(FALSE_ALARMS * len(most))])


def first_warning(run: Watched, name: str, limit: float) -> int | None:
    """The first step at which a signal is above a limit."""
    above = run.signals[name][run.signals[name] > limit]
    return int(above.index[0]) if len(above) else None


def judged(chosen_on: Sequence[Watched], runs: Sequence[Watched]) -> pd.DataFrame:
    """Each signal's worth: a row a signal.

    Args:
        chosen_on: Runs that the thresholds are taken from.
        runs: Runs to try them on.

    Returns:
        Columns signal, threshold, breaks, warned (`AHEAD` steps before, or more), lead (median of
        the breaks with any warning, in steps), least, most, steady, false_alarms.
    """
    rows = []
    for name in chosen_on[0].signals:
        limit = threshold(chosen_on, name)
        warnings = [(run.break_step, first_warning(run, name, limit)) for run in runs]
        steady = [first for end, first in warnings if end is None]
        breaks = [(end, first) for end, first in warnings if end is not None]
        leads = [end - first for end, first in breaks if first is not None]
        rows.append(
            {
                "signal": name,
                "threshold": limit,
                "breaks": len(breaks),
                "warned": sum(lead >= AHEAD for lead in leads),
                "lead": float(np.median(leads)) if leads else np.nan,
                "least": min(leads, default=0),
                "most": max(leads, default=0),
                "steady": len(steady),
                "false_alarms": sum(first is not None for first in steady),
            }
        )
    return pd.DataFrame(rows)


def said_before(runs: Sequence[Watched], left: Sequence[int]) -> pd.DataFrame:
    """What the forecast said so many steps before a break, at the last look by then.

    Returns:
        A row for each of `left`: columns left, breaks, said (how many had a forecast then), and of
        the steps that it said were left median, tenth and ninetieth percentile (low, high).
    """
    rows = []
    breaks = [run for run in runs if run.break_step is not None]
    for steps in left:
        said = []
        for run in breaks:
            assert run.break_step is not None
            looks = run.signals["forecast"]
            last = looks[looks.index <= run.break_step - steps].tail(1)
            said += [-value for value in last if np.isfinite(value)]
        low, median, high = np.percentile(said, [10, 50, 90]) if said else [np.nan] * 3
        row = {"left": steps, "breaks": len(breaks), "said": len(said)}
        rows.append({**row, "median": median, "low": low, "high": high})
    return pd.DataFrame(rows)
