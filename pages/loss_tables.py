"""Tables of what the studies that compare losses at equal compute found."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import compress
from math import nan
from typing import Any

import pandas as pd

from gradlab.analyses.loss_words import difference_text, runs_text
from gradlab.analyses.steps_to import steps_text
from gradlab.analyses.wording import mean_text, number_text
from gradlab.config import RunConfig
from gradlab.models.presets import ALL_OPERATIONS, BASELINE
from gradlab.pages.table import Cell, Table, number, numeric

_AGAINST = {ALL_OPERATIONS: "against all operations", BASELINE: "against the baseline"}


def loss_table(
    title: str, summary: pd.DataFrame, labels: Mapping[str, str], planned: Sequence[int]
) -> Table:
    """The loss of each row of a study.

    Args:
        title: What the table is of.
        summary: `gradlab.analyses.loss_rows.loss_summary` of each row, with `step_ratio`
            (`gradlab.studies.equal_time.with_times`) where the rows have equal time.
        labels: The columns that say which row it is, by heading.
        planned: How many runs each row was to have.
    """
    timed = "step_ratio" in summary
    headings = [*labels, "steps", *(["step time"] if timed else []), "runs", "loss", "perplexity"]
    rows = []
    for row, count in zip(summary.to_dict("records"), planned, strict=True):
        cells = [Cell(row[column]) for column in labels.values()]
        cells.append(number(row["steps"], "d"))
        if timed:
            cells.append(numeric(f"{row['step_ratio']:.3f} ×", row["step_ratio"]))
        loss = mean_text(row, "loss", row["runs"], form=".3f")
        perplexity = number_text(row["perplexity"], ".2f") if row["runs"] else "–"
        cells += [Cell(runs_text(row, count)), numeric(loss, row["loss"])]
        cells.append(numeric(perplexity, row["perplexity"]))
        rows.append(cells)
    return Table(headings, rows, title, whole=["loss"])


def difference_table(
    headings: Sequence[str],
    rows: Iterable[tuple[Sequence[str], Sequence[Mapping[Any, Any] | None]]],
) -> Table:
    """Paired differences of losses.

    Args:
        headings: Of the labels, and of the references after them.
        rows: The labels of each row, and its differences from the references
            (`gradlab.analyses.loss_rows.loss_difference`); None where it has none. A reference
            from which no row has one has no column.
    """
    every = list(rows)
    known = [
        any(one is not None for one in column)
        for column in zip(*(d for _, d in every), strict=True)
    ]
    made = [
        [*map(Cell, labels), *map(_difference, compress(differences, known))]
        for labels, differences in every
    ]
    labels_of = len(headings) - len(known)
    headings = [*headings[:labels_of], *compress(headings[labels_of:], known)]
    caption = "Difference over pairs of runs with one seed (nats), 95 % intervals"
    return Table(headings, made, caption)


def _difference(row: Mapping[Any, Any] | None) -> Cell:
    return numeric("", nan) if row is None else numeric(difference_text(row), row["difference"])


def steps_table(summary: pd.DataFrame) -> Table:
    """After which share of the baseline's steps each row has its final perplexity: Table 6.

    Args:
        summary: A table of `gradlab.analyses.ablation.in_rows`.
    """
    rows = [
        [Cell(str(row["arch"])), numeric(steps_text(row), row["share"])]
        for row in summary.to_dict("records")
    ]
    caption = "Share of the baseline's steps until its final perplexity, 95 % intervals"
    return Table(["row", "share"], rows, caption)


def ablation_tables(
    configs: Sequence[RunConfig], summary: pd.DataFrame, differences: pd.DataFrame
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
    first = configs[0]
    losses = loss_table(
        f"{first.size_label}, equal {equal}: validation loss after the last step "
        f"({first.model.loss_unit})",
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
    configs: Sequence[RunConfig], summary: pd.DataFrame, differences: pd.DataFrame
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
    # One of the user's own may take several lines.
    names = summary["variant"].str.replace(",", ", ")
    first = configs[0]
    losses = loss_table(
        f"{first.size_label}, equal {equal} in each variant: final validation loss "
        f"({first.model.loss_unit})",
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
