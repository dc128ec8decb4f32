"""Where signal died: outputs and gradients that are zero in every entry."""

import math
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from gradlab.analyses.finding import Finding, counted, listed, spans, streaks

_ENOUGH = 10
"""Looks in a row at which a site that was alive is zero, before it is said to have died: a batch
may leave a ReLU without an entry, and stochastic depth a branch."""
_TO_THE_END = 5
"""Looks in a row up to the last one that do, if they are half of all: of a run with few looks."""
_SMALL = 0.5
"""Share of a gradient's entries under FP16's normal numbers from which on it is flushed away."""
_SQUARE_OVERFLOWS = 256.0
"""The square of this or more is infinite in FP16."""


def zero_findings(
    faults: pd.DataFrame, grad_norms: pd.DataFrame | None, headroom: pd.DataFrame | None
) -> list[Finding]:
    """Sites that made zeros of something else for good, and gradients that are exactly zero.

    One look says little: layers may start at zero on purpose, and a batch leave one without input.
    So a site, and a parameter's gradient, count if they were zero at every look, two at least, at
    ten in a row, or at the last five or more, if that is half of all; and a step if every gradient
    was zero.

    Args:
        faults: The run's `faults` table.
        grad_norms: Its `grad_norms`, or None.
        headroom: Its `headroom`, or None: says at which looks a site was not zero.
    """
    found = []
    dead = dead_sites(faults, headroom)
    if dead:
        site, steps = next(iter(dead.items()))
        sentence = (
            f"{site}: its whole output was zero at {counted(len(steps), 'step')} ({spans(steps)}), "
            "though its input was not"
        )
        below = _zero_at(grad_norms, steps)
        if below:
            sentence += f"; there the gradients of {listed(below)} were exactly zero"
        if len(dead) > 1:
            sentence += f"; so was the output of {counted(len(dead) - 1, 'other site')}"
        found.append(Finding("all zero", f"{sentence}.{_remedy(site, steps, faults, headroom)}"))
    if grad_norms is not None:
        found += _gradients(grad_norms, headroom)
    return found


def dead_sites(faults: pd.DataFrame, headroom: pd.DataFrame | None) -> dict[str, list[int]]:
    """Sites whose output was all zero for good, the first in execution order first.

    Returns:
        Site → the steps at which it was.
    """
    zeros = faults[(faults["kind"] == "zero") & (faults["what"] == "activation")]
    found: dict[str, list[int]] = {}
    for site, rows in zeros.sort_values(["order", "step"]).groupby("name", sort=False):
        steps = sorted(set(rows["step"]))
        alive: set[int] = set()
        if headroom is not None:
            there = (headroom["site"] == site) & (headroom["direction"] == "forward")
            alive = set(headroom.loc[there, "step"]) - set(steps)
        looks = sorted([*steps, *alive])
        zero_looks = [at for at, step in enumerate(looks) if step not in alive]
        if (not alive and len(steps) > 1) or for_good(zero_looks, len(looks)):
            found[str(site)] = steps
    return found


def for_good(looks: Sequence[int], count: int) -> bool:
    """Whether what held at some of `count` looks held for long enough not to be chance.

    Args:
        looks: At which it did, by their place among all, from 0 on.
        count: Of all looks.
    """
    long = [last - first + 1 for first, last in streaks(looks)]
    to_the_end = long[-1] if long and count - 1 in looks else 0
    return max(long, default=0) >= _ENOUGH or to_the_end >= max(_TO_THE_END, count / 2)


def _gradients(grad_norms: pd.DataFrame, headroom: pd.DataFrame | None) -> list[Finding]:
    zero = (grad_norms["grad_max_abs"] == 0) & (grad_norms["nonfinite"] == 0)
    by_step = zero.groupby(grad_norms["step"]).all()
    steps = by_step.index[by_step].tolist()
    if steps:
        every = len(steps) == len(by_step)
        where = "every step looked at" if every else _at(steps)
        sentence = f"Every gradient was exactly zero at {where}."
        return [Finding("gradients zero", sentence + _flushed(headroom, steps))]
    looks = zero.groupby(grad_norms["param"], sort=False)
    names = looks.all()[looks.all() & (looks.size() > 1)].index.tolist()
    died = [
        str(name)
        for name, held in looks
        if name not in names and for_good(np.flatnonzero(held).tolist(), len(held))
    ]
    found = []
    for some, when in ((names, "every step looked at"), (died, "many steps in a row")):
        if some:
            verb = "was" if len(some) == 1 else "were"
            of = counted(grad_norms["param"].nunique(), "parameter")
            sentence = (
                f"The gradients of {len(some)} of {of} {verb} exactly zero at {when}: "
                f"{listed(some)}.{_flushed(headroom, by_step.index)}"
            )
            found.append(Finding("gradients zero", sentence))
    return found


def _flushed(headroom: pd.DataFrame | None, steps: Iterable[int]) -> str:
    """That gradients were too small for FP16, where those at FP16 sites were zero or nearly so."""
    if headroom is None:
        return ""
    rows = headroom[(headroom["direction"] == "backward") & headroom["step"].isin(list(steps))]
    rows = rows[rows["dtype"] == "float16"]
    small = (rows["max_abs"] == 0) | (rows["underflow_frac"] > _SMALL)
    if rows.empty or not small.all():
        return ""
    return (
        f" They are FP16 from {rows['site'].iloc[0]} on, which flushes what is under 6e-8 to zero "
        "(underflow): multiply the loss by a scale, as GradScaler does, or use a larger one."
    )


def _at(steps: list[int]) -> str:
    return f"step {steps[0]}" if len(steps) == 1 else f"steps {spans(steps)}"


def _zero_at(grad_norms: pd.DataFrame | None, steps: list[int]) -> list[str]:
    """The parameters whose gradients were zero at all of these steps."""
    if grad_norms is None:
        return []
    rows = grad_norms[grad_norms["step"].isin(steps)]
    zero = (rows["grad_max_abs"] == 0) & (rows["nonfinite"] == 0)
    by_param = zero.groupby(rows["param"], sort=False).all()
    names: list[str] = by_param.index[by_param].tolist()
    return names


def _remedy(
    site: str, steps: list[int], faults: pd.DataFrame, headroom: pd.DataFrame | None
) -> str:
    """What helps where the input's squares overflow FP16, as in a norm: 1/√∞ is 0."""
    row = faults[(faults["name"] == site) & (faults["kind"] == "zero")].iloc[0]
    if row["dtype"] != "float16" or headroom is None:
        return ""
    rows = headroom[(headroom["step"] == steps[0]) & (headroom["direction"] == "forward")]
    rows = rows.reset_index(drop=True)
    at = rows.index[rows["site"] == site]
    before = rows["max_abs"].iloc[at[0] - 1] if len(at) and at[0] else math.nan
    if not before >= _SQUARE_OVERFLOWS:
        return ""
    return (
        " What came before it was over 255, whose square is infinite in FP16: if the site squares "
        "its input, as norms do, compute it in FP32."
    )
