"""What a learning rate search says, in tables on the screen and in words."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table

from gradlab.cli.loss_text import signed, spread_text
from gradlab.cli.screen import Words, results_table

if TYPE_CHECKING:
    import pandas as pd

    from gradlab.config import RunConfig

NOTE = (
    "Nats a token, mean and range over seeds; a diverged run enters with its loss at "
    "initialisation."
)
"""What the losses of the table are."""

_WHAT = {"loss": "loss at its best learning rate", "sensitivity": "LR sensitivity"}


def rate_tables(configs: Sequence["RunConfig"], rates: "pd.DataFrame") -> list[Table]:
    """The loss of each architecture at each learning rate, a row a rate, a few of them a table.

    Args:
        configs: All runs of the study.
        rates: A table of `gradlab.analyses.lr_search.losses_by_rate`.
    """
    planned = Counter((config.arch, config.schedule.lr) for config in configs)
    architectures = list(dict.fromkeys(config.arch for config in configs))
    rows = rates.set_index(["arch", "lr"]).to_dict("index")
    made = []
    for start in range(0, len(architectures), _ABREAST):
        shown = architectures[start : start + _ABREAST]
        table = results_table(f"{configs[0].size}: final validation loss" if not start else None)
        for heading in ("LR", *shown):
            table.add_column(Words(heading))
        for lr in sorted({lr for _, lr in planned if lr is not None}):
            found = [(rows.get((arch, lr)), planned[arch, lr]) for arch in shown]
            cells = ["–" if row is None else rate_text(row, count) for row, count in found]
            table.add_row(f"{lr:g}", *map(Words, cells))
        made.append(table)
    return made


_ABREAST = 3
"""Architectures that stand beside one another on a terminal."""


def rate_text(row: Mapping[Any, Any], planned: int) -> str:
    """The loss at one rate, how many of the runs are behind it, and how many diverged."""
    notes = [] if row["runs"] == planned else [f"{row['runs']} of {planned}"]
    notes += [f"{row['diverged']} diverged"] if row["diverged"] else []
    return ", ".join([spread_text(row, "loss"), *notes])


def search_table(summary: "pd.DataFrame") -> Table:
    """The best learning rate and the LR sensitivity of each architecture.

    Args:
        summary: A table of `gradlab.analyses.lr_search.summarise_search`.
    """
    made = results_table("Over the seeds with a run at every rate, 95 % intervals")
    headings = ("architecture", "seeds", "best LR", "loss at it", "LR sensitivity")
    for heading in headings:
        made.add_column(heading)
    for row in summary.to_dict("records"):
        seeds = str(row["seeds"])
        if row["left_out"]:
            seeds += f" of {row['seeds'] + row['left_out']}"
        cells = [row["arch"], seeds, best_text(row)]
        cells += [interval_text(row, name) for name in ("loss", "sensitivity")]
        made.add_row(*map(Words, cells))
    return made


def best_text(row: Mapping[Any, Any]) -> str:
    """The best rate, and the range of the seeds' own where they differ."""
    if not row["seeds"]:
        return "–"
    text = f"{row['best_lr']:g}"
    low, high = row["own_lr_min"], row["own_lr_max"]
    return text if low == high else f"{text} ({low:g} to {high:g})"


def interval_text(row: Mapping[Any, Any], name: str) -> str:
    """A mean with its interval."""
    if not row["seeds"]:
        return "–"
    text = f"{row[name]:.3f}"
    if row["seeds"] == 1:
        return text
    low, high = (f"{row[name + end]:.3f}".replace("-", "−") for end in ("_low", "_high"))
    return f"{text} ({low} to {high})"


def search_sentences(summary: "pd.DataFrame", differences: "pd.DataFrame") -> list[str]:
    """How the architectures differ, and whose best rate may lie beyond those that were tried."""
    return [difference_sentence(row) for row in differences.to_dict("records")] + [
        f"{row['arch']}'s best learning rate is the {row['at_end']} that was tried: a better one "
        "may lie beyond it (--lr)."
        for row in summary[summary["at_end"] != ""].to_dict("records")
    ]


def difference_sentence(row: Mapping[Any, Any]) -> str:
    """One row of `search_differences` in words."""
    arch, baseline, what = row["arch"], row["baseline"], _WHAT[row["quantity"]]
    if not row["pairs"]:
        return (
            f"{arch}'s {what} cannot be compared with {baseline}'s: no seed has ended at every "
            "rate under both."
        )
    much = f"{abs(row['difference']):.3f} nats {'lower' if row['difference'] < 0 else 'higher'}"
    if row["pairs"] == 1:
        return (
            f"{arch}'s {what} is {much} than {baseline}'s on the one seed of both: not "
            "distinguished."
        )
    seeds = row["pairs"] if row["pairs"] == row["seeds"] else f"{row['pairs']} of {row['seeds']}"
    interval = f"95 % interval {signed(row['low'])} to {signed(row['high'])}, {seeds} seeds"
    if row["distinguished"]:
        return f"{arch}'s {what} is {much} than {baseline}'s ({interval})."
    return (
        f"{arch}'s {what} is not distinguished from {baseline}'s: it is {much} on average "
        f"({interval})."
    )
