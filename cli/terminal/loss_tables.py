"""Tables on the screen: what the studies that compare losses at equal compute found."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table

from gradlab.models.presets import ALL_OPERATIONS, BASELINE
from gradlab.pages.screen import Words, results_table

if TYPE_CHECKING:
    import pandas as pd

    from gradlab.config import RunConfig

_AGAINST = {ALL_OPERATIONS: "against all operations", BASELINE: "against the baseline"}


def loss_table(
    title: str, summary: "pd.DataFrame", labels: Mapping[str, str], planned: Sequence[int]
) -> Table:
    """The loss of each row of a study.

    Args:
        title: What the table is of.
        summary: `gradlab.analyses.loss_rows.loss_summary` of each row, with `step_ratio`
            (`gradlab.studies.equal_time.with_times`) where the rows have equal time.
        labels: The columns that say which row it is, by heading.
        planned: How many runs each row was to have.
    """
    from gradlab.analyses.loss_words import runs_text
    from gradlab.analyses.wording import mean_text

    timed = "step_ratio" in summary
    made = results_table(title)
    headings = [*labels, "steps", *(["step time"] if timed else []), "runs", "loss", "perplexity"]
    for heading in headings:
        made.add_column(Words(heading), no_wrap=heading == "loss")
    for row, count in zip(summary.to_dict("records"), planned, strict=True):
        cells = [*(row[column] for column in labels.values()), str(row["steps"])]
        cells += [f"{row['step_ratio']:.3f} ×"] if timed else []
        cells += [runs_text(row, count), mean_text(row, "loss", row["runs"], form=".3f")]
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
    from gradlab.analyses.loss_words import difference_text

    made = results_table("Difference over pairs of runs with one seed (nats), 95 % intervals")
    for heading in headings:
        made.add_column(Words(heading))
    for labels, differences in rows:
        found = ("" if one is None else difference_text(one) for one in differences)
        made.add_row(*map(Words, [*labels, *found]))
    return made


def ablation_tables(
    configs: Sequence["RunConfig"], summary: "pd.DataFrame", differences: "pd.DataFrame"
) -> list[Table]:
    """Table 4: the loss of each row, and its paired differences.

    Args:
        configs: All runs of the study.
        summary: A table of `gradlab.analyses.ablation.summarise_ablation`, with `step_ratio`
            (`gradlab.studies.equal_time.with_times`) where the rows have equal time.
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


def variant_tables(
    configs: Sequence["RunConfig"], summary: "pd.DataFrame", differences: "pd.DataFrame"
) -> list[Table]:
    """Table 5: the loss of each architecture under each variant, and its paired differences.

    Args:
        configs: All runs of the study.
        summary: A table of `gradlab.analyses.variants.summarise_variants`, with change (what each
            variant sets), and `step_ratio` (`gradlab.studies.equal_time.with_times`) where the rows
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
