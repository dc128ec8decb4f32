"""What a study of hyperparameter variants says, in tables on the screen and in words."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from gradlab.cli.loss_tables import difference_table, loss_table
from gradlab.cli.loss_text import difference_groups

if TYPE_CHECKING:
    import pandas as pd

    from gradlab.config import RunConfig


def variant_tables(
    configs: Sequence["RunConfig"], summary: "pd.DataFrame", differences: "pd.DataFrame"
) -> list[Table]:
    """Table 5: the loss of each architecture under each variant, and its paired differences.

    Args:
        configs: All runs of the study.
        summary: A table of `gradlab.analyses.variants.summarise_variants`, with change (what each
            variant sets), and `step_ratio` (`gradlab.cli.equal_time.with_times`) where the rows
            have equal time: the steps show it, and there is no room for more.
        differences: A table of `variant_differences`.
    """
    planned = Counter((config.variant, config.arch) for config in configs)
    equal = "time" if "step_ratio" in summary else "steps"
    # A variant is named in the first of its rows; one of the user's own may take several lines.
    names = summary["variant"].str.replace(",", ", ")
    names = names.where(names != names.shift(), "")
    losses = loss_table(
        f"{configs[0].size}, equal {equal} in each variant: final validation loss (nats a token)",
        summary.assign(name=names).drop(columns="step_ratio", errors="ignore"),
        {"variant": "name", "arch": "arch"},
        [planned[row] for row in zip(summary["variant"], summary["arch"], strict=True)],
    )
    if differences.empty:
        return [losses]
    changes: Mapping[str, str] = dict(zip(summary["variant"], summary["change"], strict=True))
    reference = differences["reference"].iloc[0]
    rows = [
        ([row["variant"].replace(",", ", "), changes[row["variant"]], row["arch"]], [row])
        for row in differences.to_dict("records")
    ]
    headings = ["variant", "what it sets", "arch", f"against {reference}"]
    return [losses, difference_table(headings, rows)]


def variant_sentences(differences: "pd.DataFrame") -> list[str]:
    """Under which variants each architecture is worse or better than the baseline."""
    return [
        f"{arch} against {reference} (95 % intervals over pairs of runs with one seed), "
        f"{difference_groups(rows, 'variant')}."
        for (reference, arch), rows in differences.groupby(["reference", "arch"], sort=False)
    ]
