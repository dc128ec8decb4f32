"""What an ablation says, in tables on the screen and in words."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from gradlab.cli.loss_tables import difference_table, loss_table
from gradlab.cli.loss_text import difference_groups
from gradlab.models.presets import ALL_OPERATIONS, BASELINE, TABLE_4

if TYPE_CHECKING:
    import pandas as pd

    from gradlab.config import RunConfig

_AGAINST = {ALL_OPERATIONS: "against all operations", BASELINE: "against the baseline"}


def ablation_tables(
    configs: Sequence["RunConfig"], summary: "pd.DataFrame", differences: "pd.DataFrame"
) -> list[Table]:
    """Table 4: the loss of each row, and its paired differences.

    Args:
        configs: All runs of the study.
        summary: A table of `gradlab.analyses.ablation.summarise_ablation`, with `step_ratio`
            (`gradlab.cli.equal_time.with_times`) where the rows have equal time.
        differences: A table of `ablation_differences`.
    """
    planned = Counter(config.arch for config in configs)
    equal = "time" if "step_ratio" in summary else "steps"
    losses = loss_table(
        f"{configs[0].size}, equal {equal}: validation loss after the last step (nats a token)",
        summary,
        {"row": "row"},
        [planned[arch] for arch in summary["arch"]],
    )
    if differences.empty:
        return [losses]
    against = differences.set_index(["arch", "reference"]).to_dict("index")
    rows = [
        ([row], [against.get((arch, reference)) for reference in _AGAINST])
        for arch, row in zip(summary["arch"], summary["row"], strict=True)
    ]
    return [losses, difference_table(["row", *_AGAINST.values()], rows)]


def difference_sentences(differences: "pd.DataFrame") -> list[str]:
    """Which rows are worse and better than all operations, and which are not distinguished."""
    here = differences[differences["reference"] == ALL_OPERATIONS]
    if here.empty:
        return []
    return [
        f"Against {TABLE_4[ALL_OPERATIONS]} (95 % intervals over pairs of runs with one seed), "
        f"{difference_groups(here, 'row')}."
    ]
