"""What each operation of NormFormer is worth: Table 4 of the paper, from runs."""

import pandas as pd

from gradlab.analyses.loss_rows import (
    DIFFERENCE_COLUMNS,
    SUMMARY_COLUMNS,
    loss_difference,
    loss_summary,
)
from gradlab.models.presets import ALL_OPERATIONS, BASELINE, TABLE_4


def summarise_ablation(losses: pd.DataFrame) -> pd.DataFrame:
    """The final validation loss of each row over its seeds.

    Args:
        losses: A table of `gradlab.analyses.final_losses.final_losses`.

    Returns:
        One row per architecture, those of `TABLE_4` first, in the paper's order: columns arch, row
        (its name in `TABLE_4`, or arch), and those of `gradlab.analyses.loss_rows.loss_summary`.

    Raises:
        GradlabError: Runs of one architecture were to take different numbers of steps.
    """
    rows = [
        _named(arch) | loss_summary(losses[losses["arch"] == arch]) for arch in _in_order(losses)
    ]
    return pd.DataFrame(rows, columns=["arch", "row", *SUMMARY_COLUMNS])


def in_rows(steps: pd.DataFrame) -> pd.DataFrame:
    """A table of `gradlab.analyses.compute.summarise_shares` with the rows' names of `TABLE_4`."""
    names = {name: steps[name].map(lambda arch: TABLE_4.get(arch, arch)) for name in _NAMED}
    return steps.assign(**names)


_NAMED = ("arch", "baseline")


def ablation_differences(losses: pd.DataFrame) -> pd.DataFrame:
    """How much higher each row's final loss is than that of all operations, and the baseline's.

    Each interval is at 95 % on its own: among many, some will miss.

    Args:
        losses: A table of `gradlab.analyses.final_losses.final_losses`.

    Returns:
        One row per reference (`ALL_OPERATIONS`, then `BASELINE`, if its runs are there) and other
        architecture: columns reference, arch, row, and those of
        `gradlab.analyses.loss_rows.loss_difference`.
    """
    order = _in_order(losses)
    rows = [
        {"reference": reference} | _named(arch) | loss_difference(losses, arch, reference)
        for reference in (ALL_OPERATIONS, BASELINE)
        for arch in order
        if reference in order and arch != reference
    ]
    return pd.DataFrame(rows, columns=["reference", "arch", "row", *DIFFERENCE_COLUMNS])


def _named(arch: str) -> dict[str, str]:
    return {"arch": arch, "row": TABLE_4.get(arch, arch)}


def _in_order(losses: pd.DataFrame) -> list[str]:
    """The architectures: the rows of Table 4, then others as they come."""
    here = pd.unique(losses["arch"])
    return [arch for arch in TABLE_4 if arch in here] + [
        arch for arch in here if arch not in TABLE_4
    ]
