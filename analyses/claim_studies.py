"""What the studies behind the paper's claims have for them, from their folders."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import pandas as pd

from gradlab.analyses.claim import StudyTables
from gradlab.analyses.claim_tables import loss_tables, mismatch_tables, scale_tables, time_budget
from gradlab.analyses.gradient_study import window_length
from gradlab.analyses.stability_table import ramps_table
from gradlab.errors import GradlabError
from gradlab.runs.reader import Run
from gradlab.runs.study import StudyRecord, find_study
from gradlab.studies.claims import STUDIES

Tables = dict[str, pd.DataFrame]


def _gradients(_: Path, runs: Sequence[Run]) -> Tables:
    return mismatch_tables(runs, length=window_length(runs))


def _scales(_: Path, runs: Sequence[Run]) -> Tables:
    return scale_tables(runs, length=window_length(runs))


def _stability(_: Path, runs: Sequence[Run]) -> Tables:
    if len({(run.config.size, run.config.schedule.lr_step) for run in runs}) > 1:
        raise GradlabError(
            "its runs are at several sizes or ramps, none of which is the one that the claims take."
        )
    return {"stability": ramps_table(runs)}


def _ablation(folder: Path, runs: Sequence[Run]) -> Tables:
    return loss_tables(runs, time_budget(folder, runs))


CLAIM_TABLES: Mapping[str, Callable[[Path, Sequence[Run]], Tables]] = MappingProxyType(
    {
        "gradients": _gradients,
        "scales": _scales,
        "stability": _stability,
        "ablation": _ablation,
    }
)
"""From a study's folder and its runs that are over to the tables that claims are read from."""


def read_studies(out: Path) -> dict[str, StudyTables]:
    """What each study that was begun has for the claims: nothing before all its runs are over.

    Args:
        out: The claims' folder, which has the studies in folders of their names.

    Raises:
        GradlabError: A study's file cannot be read.
    """
    found = {name: find_study(out / name) for name in CLAIM_TABLES}
    return {name: _read(name, study) for name, study in found.items() if study is not None}


def _read(name: str, study: StudyRecord) -> StudyTables:
    runs = study.runs
    over = [run for run in runs if run.status in ("finished", "error")]
    size = runs[0].config.size_label if runs else ""
    if len(over) < len(study.names):
        return StudyTables(size, missing=f"{len(over)} of {len(study.names)} runs so far")
    over = _asked_for(name, over)
    size = over[0].config.size_label if over else ""
    try:
        return StudyTables(size, CLAIM_TABLES[name](study.folder, over))
    except GradlabError as error:
        return StudyTables(size, missing=f"no number: {error}")


def _asked_for(name: str, runs: list[Run]) -> list[Run]:
    """Of a study begun with more sizes or rates, the runs that the claims take; else all."""
    asked = STUDIES[name].configs()[0]
    runs = [run for run in runs if run.config.size == asked.size] or runs
    return [run for run in runs if run.config.schedule == asked.schedule] or runs
