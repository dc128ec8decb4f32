"""What several runs' gradients say: mismatch by architecture, over seeds, with intervals."""

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from gradlab.analyses.comparable import check_comparable, name_of, run_keys
from gradlab.analyses.gradients import (
    LAYER_COLUMNS,
    WINDOW_STEPS,
    Window,
    gradients_by_layer,
    mismatch_of_layers,
    windows_of,
)
from gradlab.analyses.intervals import geometric_interval, spread
from gradlab.errors import GradlabError
from gradlab.runs.reader import Run
from gradlab.runs.study import study_commands

_KEY = ["arch", "seed", "window", "op"]


def study_gradients(runs: Iterable[Run], *, length: int = WINDOW_STEPS) -> pd.DataFrame:
    """Mean gradients of the weights of every op and layer, of several runs in both windows.

    Runs of gradlab's loop that did not reach their last step (broken, failed, interrupted) are left
    out: they have no late window. Of a loop of the user's own nobody knows its last step.

    Args:
        runs: Runs that recorded `grad_norms`, of one setting, by architecture and seed.
        length: Steps of a window (`run_windows`).

    Returns:
        One row per (arch, seed, window, op, layer), runs in the order given: columns arch, seed,
        window (`early` or `late`), first, last (its steps), n_layers, and those of
        `gradients_by_layer`.

    Raises:
        GradlabError: The runs do not compare, two have the same architecture and seed, one did not
            record its gradients, or none reached its end.
    """
    runs = [run for run in runs if run.attached or run.completed]
    if not runs:
        raise GradlabError("no run reached its last step: there are no gradients to compare.")
    check_comparable(runs)
    tables = []
    windows = run_windows(runs, length)
    for run, (_, arch, seed) in zip(runs, run_keys(runs), strict=True):
        for name, window in windows.items():
            layers = _layers(run, window)
            is_own = not run.attached
            n_layers = run.config.model.n_layers if is_own else layers["layer"].max() + 1
            of_run = {"arch": arch, "seed": seed, "window": name, "n_layers": n_layers}
            tables.append(layers.assign(**of_run, first=window.first, last=window.last))
    table = pd.concat(tables, ignore_index=True)
    return table[["arch", "seed", "window", "first", "last", "n_layers", *LAYER_COLUMNS]]


def _layers(run: Run, window: Window) -> pd.DataFrame:
    """`gradients_by_layer` of a run in a window: tables, figures and sentences ask for it in turn.

    Computed once for the same rows, whichever object they are read through.
    """
    content = run.content("grad_norms")
    known = None if content is None else _known.get((content, window))
    if known is None:
        grad_norms = run.table("grad_norms", between=(window.first, window.last))
        known = gradients_by_layer(grad_norms, first=window.first, last=window.last)
        if content is not None:
            if len(_known) >= _MOST:
                _known.clear()
            _known[content, window] = known
    return known


_known: dict[tuple[tuple[str, ...], Window], pd.DataFrame] = {}
"""Some hundred rows each."""

_MOST = 2000


def run_windows(runs: Sequence[Run], length: int) -> dict[str, Window]:
    """The windows in which the gradients of runs that compare are looked at, by name.

    Of gradlab's loop, those of `gradlab.analyses.gradients.windows_of`. Of loops of the user's own,
    whose warm-up and last step are not known, the first and the last `length` steps between the
    first and the last that all of them recorded with finite gradients, or each half where there are
    fewer; one window where there is one step.

    Raises:
        GradlabError: There is no room for both, or no such step.
    """
    if not runs[0].attached:
        return windows_of(runs[0].config, length)
    if length < 1:
        raise GradlabError(f"a window of {length} steps holds nothing: average at least one.")
    spans = [_finite_span(run) for run in runs]
    first, last = max(span.first for span in spans), min(span.last for span in spans)
    if first > last:
        raise GradlabError("the runs recorded finite gradients at no step in common.")
    length = min(length, (last - first + 1) // 2) or 1
    early = Window(first, first + length - 1)
    late = Window(last - length + 1, last)
    return {"early": early} if early == late else {"early": early, "late": late}


def _finite_span(run: Run) -> Window:
    """The first and last step whose gradients were finite, or some where none had all."""
    rows = run.table("grad_norms", ["step", "nonfinite"])
    finite = (rows["nonfinite"] == 0).groupby(rows["step"])
    steps = finite.all() if finite.all().any() else finite.any()
    if not steps.any():
        raise GradlabError(f"{name_of(run)} recorded no gradient that was finite.")
    return Window(int(steps.index[steps].min()), int(steps.index[steps].max()))


def window_length(runs: Sequence[Run]) -> int:
    """Steps of a window of runs that compare: as many as their study was told.

    Else the usual, or as many as two windows have room for. Runs of studies that were told several
    have the usual too.
    """
    studies = (study for study in study_commands(runs) if study is not None)
    if runs[0].attached:
        return WINDOW_STEPS
    told = {study.options.get("average") for study in studies}
    if len(told) == 1 and isinstance(average := told.pop(), int):
        return average
    config = runs[0].config
    return min(WINDOW_STEPS, max(1, (config.steps - config.schedule.warmup_steps) // 2))


def study_mismatch(gradients: pd.DataFrame) -> pd.DataFrame:
    """The mismatch of every run in both windows, for each op.

    Args:
        gradients: A table of `study_gradients`.

    Returns:
        One row per (arch, seed, window, op): these columns and layers, left_out, ratio, slope as
        `gradlab.analyses.gradients.mismatch_of_layers` defines them.
    """
    rows = [
        dict(zip(_KEY, key, strict=True))
        | mismatch_of_layers(layers, int(layers["n_layers"].iloc[0]))
        for key, layers in gradients.groupby(_KEY, sort=False)
    ]
    return pd.DataFrame(rows, columns=[*_KEY, "layers", "left_out", "ratio", "slope"])


def summarise_mismatch(mismatches: pd.DataFrame) -> pd.DataFrame:
    """Mismatch of each architecture over its seeds.

    The ratio's mean is geometric and its Student's t interval is taken on logarithms, so that a
    ratio and its inverse are as far from 1; the slope's are plain.

    Args:
        mismatches: A table of `study_mismatch`.

    Returns:
        One row per (op, window, arch), in the order of the study: columns op, window, arch, runs
        (that have a ratio), left_out (rows of all runs), ratio, ratio_low, ratio_high (the
        interval; NaN for one run), ratio_min, ratio_max (over seeds), and the same five of slope.
    """
    rows = []
    for (op, window), group in mismatches.groupby(["op", "window"], sort=False):
        for arch, runs in group.groupby("arch", sort=False):
            ratios = _with_logarithm(runs["ratio"]).dropna()
            row: dict[str, Any] = {"op": op, "window": window, "arch": arch, "runs": len(ratios)}
            row["left_out"] = int(runs["left_out"].sum())
            row |= spread("ratio", ratios.tolist(), geometric_interval)
            rows.append(row | spread("slope", runs["slope"].dropna().tolist()))
    return pd.DataFrame(rows, columns=_SUMMARY_COLUMNS)


_SUMMARY_COLUMNS = [
    *["op", "window", "arch", "runs", "left_out"],
    *(
        f"{name}{end}"
        for name in ("ratio", "slope")
        for end in ("", "_low", "_high", "_min", "_max")
    ),
]


def _with_logarithm(ratios: "pd.Series[float]") -> "pd.Series[float]":
    """NaN for ratios of 0 and inf, where one end has no gradient at all."""
    return ratios.where((ratios > 0) & np.isfinite(ratios))


def mismatch_differences(mismatches: pd.DataFrame) -> pd.DataFrame:
    """How many times as large each architecture's mismatch is as another's, over shared seeds.

    A pair is one seed run under both architectures: the same batches, and equal values at the
    start of the parameters that both have. The interval is Student's t over the logarithms of the
    pairs' quotients; each is at 95 % on its own.

    Args:
        mismatches: A table of `study_mismatch`.

    Returns:
        One row per (op, window) and couple of architectures that both have the op, `baseline` the
        one that comes first: columns op, window, baseline, arch, seeds (of either), pairs,
        quotient (geometric mean of arch's ratio / baseline's), low, high, distinguished (False
        where the interval includes 1 or there are fewer than 2 pairs).
    """
    rows = []
    for (op, window), group in mismatches.groupby(["op", "window"], sort=False):
        group = group.assign(ratio=_with_logarithm(group["ratio"]))
        ratios = group.pivot(index="seed", columns="arch", values="ratio")
        for baseline, arch in combinations(pd.unique(group["arch"]), 2):
            both = ratios[[baseline, arch]].dropna(how="all")
            quotients = (both[arch] / both[baseline]).dropna()
            found = geometric_interval(quotients)
            row = {"op": op, "window": window, "baseline": baseline, "arch": arch}
            row |= {"seeds": len(both), "pairs": len(quotients)}
            row |= {"quotient": found.mean, "low": found.low, "high": found.high}
            rows.append({**row, "distinguished": found.leaves_out(1)})
    return pd.DataFrame(rows, columns=_DIFFERENCE_COLUMNS)


_DIFFERENCE_COLUMNS = [
    *["op", "window", "baseline", "arch", "seeds", "pairs"],
    *["quotient", "low", "high", "distinguished"],
]
