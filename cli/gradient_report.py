"""What a study of gradients says, in words and a table on the screen."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from gradlab.cli.screen import Words, results_table

if TYPE_CHECKING:
    import pandas as pd

    from gradlab.config import RunConfig


def mismatch_table(
    configs: Sequence["RunConfig"],
    gradients: "pd.DataFrame",
    summary: "pd.DataFrame",
    *,
    op: str,
) -> Table:
    """The mismatch of one op, a row for each window and architecture.

    Args:
        configs: All runs of the study, those included that did not reach their last step.
        gradients: A table of `gradlab.analyses.gradient_study.study_gradients`.
        summary: A table of `summarise_mismatch`.
        op: The op.
    """
    made = results_table(f"{configs[0].size}, gradient of {op}: mean and range over seeds")
    for heading in ("steps", "architecture"):
        made.add_column(heading, no_wrap=True)
    for heading in ("runs", "first / last layers", "slope over depth"):
        made.add_column(heading)
    planned = Counter(config.arch for config in configs)
    here = summary[summary["op"] == op].set_index(["window", "arch"]).to_dict("index")
    windows = gradients.drop_duplicates("window")[["window", "first", "last"]]
    for window, first, last in windows.itertuples(index=False):
        for arch, runs in planned.items():
            row = here.get((window, arch), {"runs": 0, "left_out": 0})
            cells = [runs_text(row, runs), *(spread_text(row, name) for name in ("ratio", "slope"))]
            made.add_row(f"{first}–{last}", Text(arch), *map(Words, cells))
    return made


def runs_text(row: Mapping[Any, Any], planned: int) -> str:
    """How many of an architecture's runs are behind its row, and what was left out of them."""
    text = str(planned) if row["runs"] == planned else f"{row['runs']} of {planned}"
    return f"{text} ({row['left_out']} rows left out)" if row["left_out"] else text


def spread_text(row: Mapping[Any, Any], name: str) -> str:
    """Mean and range over seeds."""
    if not row["runs"] or math.isnan(row[name]):
        return "–"
    figures = [row[name + end] for end in ("", "_min", "_max")]
    mean, low, high = (f"{figure:.3g}".replace("-", "−") for figure in figures)
    return mean if row["runs"] == 1 else f"{mean} ({low} to {high})"


def difference_sentences(differences: "pd.DataFrame", *, op: str) -> list[str]:
    """How the architectures' mismatch late in training differs, a sentence a pair."""
    here = differences[(differences["op"] == op) & (differences["window"] == "late")]
    return [difference_sentence(row) for row in here.to_dict("records")]


def difference_sentence(row: Mapping[Any, Any]) -> str:
    """One row of `mismatch_differences` in words."""
    arch, baseline, pairs = row["arch"], row["baseline"], row["pairs"]
    mine = f"{arch}'s {row['window']} {row['op']} mismatch"
    if not pairs:
        return f"{mine} cannot be compared with {baseline}'s: no seed has one under both."
    much = f"{row['quotient']:.3g} times"
    if pairs == 1:
        return f"{mine} is {much} {baseline}'s on the one seed of both: not distinguished."
    seeds = pairs if pairs == row["seeds"] else f"{pairs} of {row['seeds']}"
    interval = f"95 % interval {row['low']:.3g} to {row['high']:.3g}, {seeds} seeds"
    if row["distinguished"]:
        return f"{mine} is {much} {baseline}'s ({interval})."
    return (
        f"{mine} is not distinguished from {baseline}'s: it is {much} that on average ({interval})."
    )
