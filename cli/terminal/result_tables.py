"""Tables on the screen: what a stability test, a study of gradients and an LR search found."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from gradlab.pages.screen import Words, results_table

if TYPE_CHECKING:
    import pandas as pd

    from gradlab.config import RunConfig

_RATES = {
    "lr": "LR at the break",
    "lr_min_loss": "at the lowest loss",
    "lr_collapse": "at the collapse",
}


def summary_tables(table: "pd.DataFrame") -> list[Table]:
    """Two tables for each size and ramp: the three learning rates, and what broke."""
    from gradlab.analyses.stability import first_overflow_sites, summarise_stability
    from gradlab.analyses.stability_words import cause_text, rate_text, runs_text

    summary, sites = summarise_stability(table), first_overflow_sites(table)
    made = []
    for (size, lr_step), rows in summary.groupby(["size", "lr_step"], sort=False):
        # Two tables, as one would be wider than a terminal.
        rates = results_table(f"{size}, LR rising by {lr_step:g} a step")
        ends = results_table("What broke")
        for here, headings in (
            (rates, _RATES.values()),
            (ends, ("runs", "first overflow")),
        ):
            here.add_column("architecture", no_wrap=True)
            for heading in headings:
                here.add_column(heading)
        causes = sites[(sites["size"] == size) & (sites["lr_step"] == lr_step)]
        for row in rows.to_dict("records"):
            cause = causes[causes["arch"] == row["arch"]]
            rates.add_row(row["arch"], *(Words(rate_text(row, value)) for value in _RATES))
            ends.add_row(row["arch"], Words(runs_text(row)), Words(cause_text(cause)))
        made += [rates, ends]
    return made


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
    from gradlab.analyses.gradient_words import runs_text
    from gradlab.analyses.wording import mean_text

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
            means = (mean_text(row, name, row["runs"]) for name in ("ratio", "slope"))
            cells = [runs_text(row, runs), *means]
            made.add_row(f"{first}–{last}", Text(arch), *map(Words, cells))
    return made


def rate_tables(configs: Sequence["RunConfig"], rates: "pd.DataFrame") -> list[Table]:
    """The loss of each architecture at each learning rate, a row a rate, a few of them a table.

    Args:
        configs: All runs of the study.
        rates: A table of `gradlab.analyses.lr_search.losses_by_rate`.
    """
    from gradlab.analyses.lr_search_words import rate_text

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


def search_table(summary: "pd.DataFrame") -> Table:
    """The best learning rate and the LR sensitivity of each architecture.

    Args:
        summary: A table of `gradlab.analyses.lr_search.summarise_search`.
    """
    from gradlab.analyses.lr_search_words import best_text
    from gradlab.analyses.wording import mean_text, share_text

    made = results_table("Over the seeds with a run at every rate, 95 % intervals")
    headings = ("architecture", "seeds", "best LR", "loss at it", "LR sensitivity")
    for heading in headings:
        made.add_column(heading)
    for row in summary.to_dict("records"):
        seeds = share_text(row["seeds"], row["seeds"] + row["left_out"])
        cells = [row["arch"], seeds, best_text(row)]
        for name in ("loss", "sensitivity"):
            ends = ("_low", "_high")
            cells.append(mean_text(row, name, row["seeds"], ends=ends, form=".3f"))
        made.add_row(*map(Words, cells))
    return made
