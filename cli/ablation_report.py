"""What an ablation says, in a table on the screen and in words."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from gradlab.cli.loss_text import difference_text, ratio_text, runs_text, spread_text
from gradlab.models.presets import ALL_OPERATIONS, BASELINE, TABLE_4

if TYPE_CHECKING:
    import pandas as pd

    from gradlab.config import RunConfig

_AGAINST = {ALL_OPERATIONS: "against all operations", BASELINE: "against the baseline"}


def ablation_table(
    configs: Sequence["RunConfig"], summary: "pd.DataFrame", differences: "pd.DataFrame"
) -> Table:
    """Table 4: the loss of each row, and its paired differences.

    Args:
        configs: All runs of the study.
        summary: A table of `gradlab.analyses.ablation.summarise_ablation`, with `step_ratio`
            (`gradlab.cli.equal_time.with_times`) where the rows have equal time.
        differences: A table of `ablation_differences`.
    """
    timed = "step_ratio" in summary
    made = Table(
        title=f"{configs[0].size}, equal {'time' if timed else 'steps'}: validation loss after the "
        "last step (nats a token)",
        title_justify="left",
        title_style="bold",
        box=None,
        header_style="dim",
    )
    made.add_column("row", no_wrap=True)
    headings = ["steps", "step time"] if timed else ["steps"]
    for heading in [*headings, "runs", "loss", "perplexity", *_AGAINST.values()]:
        made.add_column(heading)
    planned = Counter(config.arch for config in configs)
    against = differences.set_index(["arch", "reference"]).to_dict("index")
    for row in summary.to_dict("records"):
        arch = row["arch"]
        cells = [row["row"], str(row["steps"])]
        cells += [ratio_text(row["step_ratio"])] if timed else []
        cells += [runs_text(row, planned[arch]), spread_text(row, "loss")]
        cells.append(f"{row['perplexity']:.2f}" if row["runs"] else "–")
        for reference in _AGAINST:
            found = against.get((arch, reference))
            cells.append("" if found is None else difference_text(found))
        made.add_row(*(Text(cell) for cell in cells))
    return made


def difference_sentences(differences: "pd.DataFrame") -> list[str]:
    """Which rows are worse and better than all operations, and which are not distinguished."""
    here = differences[differences["reference"] == ALL_OPERATIONS]
    if here.empty:
        return []
    told = here[here["distinguished"]]
    groups = {
        "worse": told[told["difference"] > 0],
        "better": told[told["difference"] < 0],
        "not distinguished": here[~here["distinguished"]],
    }
    parts = [f"{word}: {', '.join(rows['row'])}" for word, rows in groups.items() if len(rows)]
    return [
        f"Against {TABLE_4[ALL_OPERATIONS]} (95 % intervals over pairs of runs with one seed), "
        f"{'; '.join(parts)}."
    ]
