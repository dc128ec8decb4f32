"""Tables of what a stability test, a study of gradients and an LR search found."""

from collections import Counter
from collections.abc import Sequence
from math import nan

import pandas as pd

from gradlab.analyses import gradient_words, lr_search_words, stability_words
from gradlab.analyses.stability import first_overflow_sites, summarise_stability
from gradlab.analyses.wording import mean_text, share_text
from gradlab.config import RunConfig
from gradlab.pages.table import Cell, Table, numeric

_RATES = {
    "lr": "LR at the break",
    "lr_min_loss": "at the lowest loss",
    "lr_collapse": "at the collapse",
}


def summary_tables(table: pd.DataFrame) -> list[Table]:
    """Two tables for each size and ramp: the three learning rates, and what broke.

    Two, as one would be wider than a terminal.
    """
    summary, sites = summarise_stability(table), first_overflow_sites(table)
    made = []
    for (size, lr_step), rows in summary.groupby(["size", "lr_step"], sort=False):
        causes = sites[(sites["size"] == size) & (sites["lr_step"] == lr_step)]
        rates, ends = [], []
        for row in rows.to_dict("records"):
            arch = Cell(row["arch"])
            cause = stability_words.cause_text(causes[causes["arch"] == row["arch"]])
            texts = {value: stability_words.rate_text(row, value) for value in _RATES}
            medians = (numeric(text, row[f"{value}_median"]) for value, text in texts.items())
            rates.append([arch, *medians])
            ends.append([arch, Cell(stability_words.runs_text(row)), Cell(cause)])
        caption = f"{size}, LR rising by {lr_step:g} a step"
        whole = ["architecture"]
        made.append(Table([*whole, *_RATES.values()], rates, caption, whole=whole))
        made.append(Table([*whole, "runs", "first overflow"], ends, "What broke", whole=whole))
    return made


def mismatch_table(
    configs: Sequence[RunConfig], gradients: pd.DataFrame, summary: pd.DataFrame, *, op: str
) -> Table:
    """The mismatch of one op, a row for each window and architecture.

    Args:
        configs: All runs of the study, those included that did not reach their last step.
        gradients: A table of `gradlab.analyses.gradient_study.study_gradients`.
        summary: A table of `summarise_mismatch`.
        op: The op.
    """
    planned = Counter(config.arch for config in configs)
    here = summary[summary["op"] == op].set_index(["window", "arch"]).to_dict("index")
    windows = gradients.drop_duplicates("window")[["window", "first", "last"]]
    rows = []
    for window, first, last in windows.itertuples(index=False):
        for arch, runs in planned.items():
            row = here.get((window, arch), {"runs": 0, "left_out": 0})
            cells = [Cell(f"{first}–{last}"), Cell(arch)]
            cells.append(Cell(gradient_words.runs_text(row, runs)))
            cells += [
                numeric(mean_text(row, name, row["runs"]), row.get(name, nan))
                for name in ("ratio", "slope")
            ]
            rows.append(cells)
    headings = ["steps", "architecture", "runs", "first / last layers", "slope over depth"]
    caption = f"{configs[0].size}, gradient of {op}: mean and range over seeds"
    return Table(headings, rows, caption, whole=headings[:2])


def rate_tables(configs: Sequence[RunConfig], rates: pd.DataFrame) -> list[Table]:
    """The loss of each architecture at each learning rate, a row a rate, a few of them a table.

    Args:
        configs: All runs of the study.
        rates: A table of `gradlab.analyses.lr_search.losses_by_rate`.
    """
    planned = Counter((config.arch, config.schedule.lr) for config in configs)
    architectures = list(dict.fromkeys(config.arch for config in configs))
    found = rates.set_index(["arch", "lr"]).to_dict("index")

    def cell(arch: str, lr: float) -> Cell:
        row = found.get((arch, lr))
        if row is None:
            return numeric("–", nan)
        return numeric(lr_search_words.rate_text(row, planned[arch, lr]), row["loss"])

    made = []
    each = sorted({lr for _, lr in planned if lr is not None})
    for start in range(0, len(architectures), _ABREAST):
        shown = architectures[start : start + _ABREAST]
        rows = [[numeric(f"{lr:g}", lr), *(cell(arch, lr) for arch in shown)] for lr in each]
        is_last = start + _ABREAST >= len(architectures)
        caption = f"{configs[0].size}: final validation loss"
        note = lr_search_words.NOTE if is_last else ""
        made.append(Table(["LR", *shown], rows, caption, shown=not start, note=note))
    return made


_ABREAST = 3
"""Architectures that stand beside one another on a terminal."""


def search_table(summary: pd.DataFrame) -> Table:
    """The best learning rate and the LR sensitivity of each architecture.

    Args:
        summary: A table of `gradlab.analyses.lr_search.summarise_search`.
    """
    rows = []
    for row in summary.to_dict("records"):
        seeds = share_text(row["seeds"], row["seeds"] + row["left_out"])
        cells = [Cell(row["arch"]), Cell(seeds)]
        cells.append(numeric(lr_search_words.best_text(row), row["best_lr"]))
        for name in ("loss", "sensitivity"):
            text = mean_text(row, name, row["seeds"], ends=("_low", "_high"), form=".3f")
            cells.append(numeric(text, row[name]))
        rows.append(cells)
    headings = ["architecture", "seeds", "best LR", "loss at it", "LR sensitivity"]
    return Table(headings, rows, "Over the seeds with a run at every rate, 95 % intervals")
