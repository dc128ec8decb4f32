"""Whether one architecture beats another under other hyperparameters: Table 5 of the paper."""

from collections.abc import Iterable

import pandas as pd

from gradlab.analyses.final_losses import COLUMNS, final_losses
from gradlab.analyses.loss_rows import (
    DIFFERENCE_COLUMNS,
    SUMMARY_COLUMNS,
    loss_difference,
    loss_summary,
)
from gradlab.errors import GradlabError, unknown
from gradlab.runs.reader import Run

VARIANT_COLUMNS = ["variant", *COLUMNS]


def variant_losses(runs: Iterable[Run]) -> pd.DataFrame:
    """The loss of each run that has ended, at its first step and after its last.

    Args:
        runs: Runs by variant, architecture and seed. Those of one variant may differ in the number
            of steps, those of different ones in everything.

    Returns:
        One row per run, variant by variant in the order of their first runs: columns variant, and
        those of `gradlab.analyses.final_losses.final_losses`.

    Raises:
        GradlabError: The runs of a variant do not compare, two are the same, or one that reached
            its last step was not validated there.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.config.variant, []).append(run)
    tables = [
        final_losses(group, vary="steps").assign(variant=variant)
        for variant, group in groups.items()
    ]
    tables = [table for table in tables if len(table)]
    if not tables:
        return pd.DataFrame(columns=VARIANT_COLUMNS)
    return pd.concat(tables, ignore_index=True)[VARIANT_COLUMNS]


def summarise_variants(losses: pd.DataFrame) -> pd.DataFrame:
    """The final validation loss of each architecture under each variant, over its seeds.

    Args:
        losses: A table of `variant_losses`.

    Returns:
        One row per (variant, arch), in the table's order: these columns, lr (the peak), and those
        of `gradlab.analyses.loss_rows.loss_summary`.

    Raises:
        GradlabError: Runs of one row were to take different numbers of steps.
    """
    rows = [
        {"variant": variant, "arch": arch, "lr": runs["lr"].iloc[0]} | loss_summary(runs)
        for (variant, arch), runs in losses.groupby(["variant", "arch"], sort=False)
    ]
    return pd.DataFrame(rows, columns=["variant", "arch", "lr", *SUMMARY_COLUMNS])


def variant_differences(losses: pd.DataFrame, *, baseline: str) -> pd.DataFrame:
    """How much higher each architecture's final loss is than the baseline's of the same variant.

    Never across variants: their losses are of different budgets, or different tasks. Each interval
    is at 95 % on its own: among many, some will miss.

    Args:
        losses: A table of `variant_losses`.
        baseline: The architecture to compare with.

    Returns:
        One row per variant that has runs of the baseline, and other architecture: columns variant,
        reference, arch, and those of `gradlab.analyses.loss_rows.loss_difference`.

    Raises:
        GradlabError: No variant has runs of the baseline.
    """
    if len(losses) and not losses["arch"].eq(baseline).any():
        raise GradlabError(unknown("baseline", baseline, pd.unique(losses["arch"])))
    rows = []
    for variant, runs in losses.groupby("variant", sort=False):
        architectures = list(pd.unique(runs["arch"]))
        if baseline not in architectures:
            continue
        rows += [
            {"variant": variant, "reference": baseline, "arch": arch}
            | loss_difference(runs, arch, baseline)
            for arch in architectures
            if arch != baseline
        ]
    return pd.DataFrame(rows, columns=["variant", "reference", "arch", *DIFFERENCE_COLUMNS])
