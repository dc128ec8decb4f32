"""Tables on the screen of the studies that compare losses at equal compute."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table

from gradlab.cli.loss_text import difference_text, ratio_text, runs_text, spread_text
from gradlab.cli.screen import Words, results_table

if TYPE_CHECKING:
    import pandas as pd


def loss_table(
    title: str, summary: "pd.DataFrame", labels: Mapping[str, str], planned: Sequence[int]
) -> Table:
    """The loss of each row of a study.

    Args:
        title: What the table is of.
        summary: `gradlab.analyses.loss_rows.loss_summary` of each row, with `step_ratio`
            (`gradlab.cli.equal_time.with_times`) where the rows have equal time.
        labels: The columns that say which row it is, by heading.
        planned: How many runs each row was to have.
    """
    timed = "step_ratio" in summary
    made = results_table(title)
    headings = [*labels, "steps", *(["step time"] if timed else []), "runs", "loss", "perplexity"]
    for heading in headings:
        made.add_column(Words(heading), no_wrap=heading == "loss")
    for row, count in zip(summary.to_dict("records"), planned, strict=True):
        cells = [*(row[column] for column in labels.values()), str(row["steps"])]
        cells += [ratio_text(row["step_ratio"])] if timed else []
        cells += [runs_text(row, count), spread_text(row, "loss")]
        cells.append(f"{row['perplexity']:.2f}" if row["runs"] else "–")
        made.add_row(*map(Words, cells))
    return made


def difference_table(
    headings: Sequence[str],
    rows: "Iterable[tuple[Sequence[str], Sequence[Mapping[Any, Any] | None]]]",
) -> Table:
    """Paired differences of losses.

    Args:
        headings: Of the labels, and of the references after them.
        rows: The labels of each row, and its differences from the references
            (`gradlab.analyses.loss_rows.loss_difference`); None where it has none.
    """
    made = results_table("Difference over pairs of runs with one seed (nats), 95 % intervals")
    for heading in headings:
        made.add_column(Words(heading))
    for labels, differences in rows:
        found = ("" if one is None else difference_text(one) for one in differences)
        made.add_row(*map(Words, [*labels, *found]))
    return made
