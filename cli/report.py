"""A stability study's result in words and tables on the screen."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.table import Table

from gradlab.cli.screen import Words, results_table

if TYPE_CHECKING:
    import pandas as pd

_RATES = {
    "lr": "LR at the break",
    "lr_min_loss": "at the lowest loss",
    "lr_collapse": "at the collapse",
}


def summary_tables(table: "pd.DataFrame") -> list[Table]:
    """Two tables for each size and ramp: the three learning rates, and what broke."""
    from gradlab.analyses.stability import first_overflow_sites, summarise_stability

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
            rates.add_row(row["arch"], *(Words(spread_text(row, value)) for value in _RATES))
            ends.add_row(row["arch"], Words(runs_text(row)), Words(cause_text(cause)))
        made += [rates, ends]
    return made


def runs_text(row: Mapping[Any, Any]) -> str:
    """How many runs there are, and how many of them did not break."""
    notes = [f"{row[name]} {name}" for name in ("censored", "failed", "interrupted") if row[name]]
    total = row["runs"] + row["failed"] + row["interrupted"]
    return f"{total} ({', '.join(notes)})" if notes else str(total)


def spread_text(row: Mapping[Any, Any], value: str) -> str:
    """Median and range, with ≥ where a figure is only a lower bound."""
    count = row[f"{value}_runs"]
    if not count:
        return "–"
    median = _bounded(row[f"{value}_median"], row[f"{value}_median_bound"])
    if count == 1:
        text = median
    else:
        low, high = (
            _bounded(row[f"{value}_{end}"], row[f"{value}_{end}_bound"]) for end in ("low", "high")
        )
        text = f"{median} ({low} to {high})"
    return text if count == row["runs"] else f"{text}, {count} of {row['runs']}"


def _bounded(figure: float, bound: bool) -> str:
    return f"≥{figure:.3g}" if bound else f"{figure:.3g}"


def cause_text(sites: "pd.DataFrame") -> str:
    """The commonest site of the first overflow, and its share of the breaks."""
    if sites.empty:
        return "–"
    first = sites.iloc[0]
    return f"{first['site']} ({first['runs']} of {sites['runs'].sum()})"


def difference_sentences(table: "pd.DataFrame") -> list[str]:
    """The paired differences of the LR at the break, a sentence each."""
    from gradlab.analyses.stability import paired_differences

    found = paired_differences(table)
    several = len(found[["size", "lr_step"]].drop_duplicates()) > 1
    sentences = []
    for row in found.to_dict("records"):
        where = f"{row['size']}, {row['lr_step']:g} a step: " if several else ""
        sentences.append(where + difference_sentence(row))
    return sentences


def difference_sentence(row: Mapping[Any, Any]) -> str:
    """One row of `paired_differences` in words."""
    arch, baseline, pairs = row["arch"], row["baseline"], row["pairs"]
    left = [f"{row[name]} {name}" for name in ("censored", "missing") if row[name]]
    outside = f"; pairs left out: {', '.join(left)}" if left else ""
    if not pairs:
        return f"{arch} and {baseline} cannot be compared: no seed broke under both{outside}."
    percent = 100 * (row["ratio"] - 1)
    much = f"{_rounded(abs(percent))} % {'lower' if percent < 0 else 'higher'}"
    if pairs == 1:
        return (
            f"{arch} broke {much} than {baseline} on the one seed of both: not distinguished"
            f"{outside}."
        )
    low, high = (_signed(100 * (row[end] - 1)) for end in ("low", "high"))
    interval = f"95 % interval {low} to {high} %, {pairs} seeds{outside}"
    if row["distinguished"]:
        return f"{arch} breaks {much} than {baseline} ({interval})."
    return (
        f"{arch} is not distinguished from {baseline}: its break is {much} on average ({interval})."
    )


def _rounded(percent: float) -> str:
    return f"{percent:.0f}" if abs(percent) >= 9.95 else f"{percent:.1f}"


def _signed(percent: float) -> str:
    sign = "−" if percent < 0 else "+"
    return sign + _rounded(abs(percent))
