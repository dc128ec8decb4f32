"""The tables of recorded runs that the paper's claims are read from, by the claims' names."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from gradlab.analyses.comparable import check_comparable, run_key
from gradlab.analyses.compute import perplexity_curves
from gradlab.analyses.final_losses import final_losses
from gradlab.analyses.gradient_study import study_gradients, study_mismatch
from gradlab.analyses.gradients import WINDOW_STEPS
from gradlab.analyses.relative_gradients import relative_gradients, study_losses
from gradlab.errors import GradlabError
from gradlab.models.presets import BASELINE
from gradlab.runs.reader import Run
from gradlab.runs.study import load_study
from gradlab.studies.equal_time import NOTE


def mismatch_tables(runs: Sequence[Run], *, length: int = WINDOW_STEPS) -> dict[str, pd.DataFrame]:
    """`mismatch`: `gradlab.analyses.gradient_study.study_mismatch` of the runs.

    Args:
        runs: Of a study of gradients.
        length: Steps of a window.

    Raises:
        GradlabError: The runs do not compare, or did not record their gradients.
    """
    return {"mismatch": study_mismatch(study_gradients(runs, length=length))}


def scale_tables(runs: Sequence[Run], *, length: int = WINDOW_STEPS) -> dict[str, pd.DataFrame]:
    """`relative`, the gradients relative to the baseline's, and `scales`.

    Args:
        runs: Of a study of gradients that recorded the scales too.
        length: Steps of a window.

    Returns:
        `gradlab.analyses.relative_gradients.relative_gradients` of the runs, and `last_scales`.

    Raises:
        GradlabError: The runs do not compare, did not record gradients and scales, or have no
            baseline.
    """
    gradients, losses = (read(runs, length=length) for read in (study_gradients, study_losses))
    relative = relative_gradients(gradients, losses, baseline=BASELINE)
    return {"relative": relative, "scales": last_scales(runs)}


def last_scales(runs: Sequence[Run]) -> pd.DataFrame:
    """Every entry of the layers' learned scales after the last step of each run.

    A run that did not come to its last step is left out, and so are entries that are not finite.

    Returns:
        One row an entry: columns arch, seed, op, layer, value.

    Raises:
        GradlabError: The runs do not compare, or one did not record its scales.
    """
    check_comparable(runs)
    tables = []
    for run in runs:
        last = run.config.steps - 1
        scales = run.table("scales", between=(last, last))
        scales = scales[scales["layer"].notna() & scales["value"].abs().lt(float("inf"))]
        tables.append(scales.assign(arch=run.config.arch, seed=run.config.seed))
    entries = pd.concat(tables, ignore_index=True)
    return entries[["arch", "seed", "op", "layer", "value"]].astype({"layer": "int64"})


def time_budget(folder: Path, runs: Sequence[Run]) -> float:
    """Seconds that the steps of every row of an ablation at equal time take: the baseline's.

    Args:
        folder: The study's, which has the time of a step as it was measured before the study.
        runs: Of the study.

    Raises:
        GradlabError: No step of the baseline's was timed: its runs do not take equal time.
    """
    times = load_study(folder).notes.get(NOTE) or {}
    steps = [run.config.steps for run in runs if run.config.arch == BASELINE]
    if BASELINE not in times or not steps:
        raise GradlabError(
            f"the study in {folder} is not at equal time with {BASELINE}: make it with gradlab "
            f"ablate --equal time, and {BASELINE} among its rows."
        )
    return float(times[BASELINE]["median"]) * max(steps)


def loss_tables(runs: Sequence[Run], budget: float) -> dict[str, pd.DataFrame]:
    """`losses`, the final ones, and `curves`, every validation.

    Args:
        runs: Of an ablation at equal time.
        budget: Seconds that the steps of each take.

    Returns:
        `gradlab.analyses.final_losses.final_losses` of the runs, and `timed_curves` of those that
        reached their last step.

    Raises:
        GradlabError: The runs do not compare, or one was not validated.
    """
    whole = [run for run in runs if run.completed]
    return {"losses": final_losses(runs, vary="steps"), "curves": timed_curves(whole, budget)}


def timed_curves(runs: Sequence[Run], budget: float) -> pd.DataFrame:
    """The validations of runs at equal time, against the time that the training steps alone take.

    Runs side by side disturb each other, and validations take time of their own. The steps of a
    run, as they were timed before the study, take as long as those of any other.

    Args:
        runs: As `gradlab.analyses.compute.perplexity_curves`.
        budget: Seconds that the steps of each run take.

    Returns:
        Its table, with `seconds` = the share of the run's steps taken × budget.
    """
    curves = perplexity_curves(runs)
    planned = {run_key(run): run.config.steps for run in runs}
    keys = curves[["size", "arch", "seed"]].itertuples(index=False, name=None)
    curves["seconds"] = budget * (curves["step"] + 1) / [planned[key] for key in keys]
    return curves
