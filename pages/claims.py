"""The paper's claims as a table on the screen, and as a page of Markdown with its figures."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from gradlab.analyses import wording
from gradlab.pages.screen import Words, results_table

if TYPE_CHECKING:
    import pandas as pd

FIGURES = "figures"
"""The folder of the pictures, in that of the claims."""

TITLES = {
    "gradients_fc2": "Mean gradient L1 of the second FFN weight, by layer",
    "scales": "Learned scales by layer",
    "lambda_resid": "λ_resid by depth",
    "relative_gradients_late": "Gradients relative to Pre-LN's, by layer",
    "lr_at_break": "Learning rate at the break",
    "perplexity": "Validation perplexity against training time",
}
"""What a figure shows, by the name of its files."""


def claims_table(table: "pd.DataFrame") -> Table:
    """The claims with their verdicts.

    Args:
        table: Of `gradlab.analyses.claim.judge_all`.
    """
    made = results_table("The paper's claims")
    for heading in ("claim", "size", "number (95 % interval)", "seeds", "verdict"):
        made.add_column(heading)
    for row in table.to_dict("records"):
        cells = [f"{row['says']} ({row['source']})", row["size"], number_text(row)]
        made.add_row(*map(Words, [*cells, seeds_text(row), row["verdict"]]))
    return made


def document(
    table: "pd.DataFrame", lines: Mapping[str, str], drawn: Mapping[str, Sequence[str]]
) -> str:
    """The page.

    Args:
        table: Of `gradlab.analyses.claim.judge_all`.
        lines: The command of each study, by its name.
        drawn: The names of its figures, likewise.
    """
    from gradlab.analyses.claim import RULE

    parts = ["# The paper's claims at small size", markdown_table(table), f"{RULE}."]
    for name, line in lines.items():
        parts += [f"## {name}", f"```console\n$ {line}\n```"]
        parts += [
            f"![{TITLES.get(stem, stem)}]({FIGURES}/{stem}.png)" for stem in drawn.get(name, [])
        ]
    return "\n\n".join(parts) + "\n"


def markdown_table(table: "pd.DataFrame") -> str:
    """A row a claim: its words, where the paper has it, verdict, number and what that is."""
    from gradlab.analyses.claim import VERDICTS

    headings = ["claim", "paper", "size", "verdict", "number", "what it is", "seeds"]
    rows = [headings, ["---"] * len(headings)]
    for row in table.to_dict("records"):
        verdict = f"**{row['verdict']}**" if row["verdict"] in VERDICTS else row["verdict"]
        cells = [row["says"], row["source"], row["size"] and f"`{row['size']}`", verdict]
        rows.append([*cells, number_text(row), row["meaning"], seeds_text(row)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def seeds_text(row: Mapping[Any, Any]) -> str:
    """How many seeds are behind a number; a dash before the study is finished."""
    from gradlab.analyses.claim import VERDICTS

    return str(row["seeds"]) if row["verdict"] in VERDICTS else "–"


def number_text(row: Mapping[Any, Any]) -> str:
    """A claim's number with its interval, to two digits of the interval's half-width.

    To more where an end would be rounded onto the edge of the claim's side, and seem to touch it.
    """
    ends = [row[name] for name in ("number", "low", "high")]
    if math.isnan(row["low"]):
        return wording.number_text(row["number"])
    half = (row["high"] - row["low"]) / 2
    digits = max(0, 1 - math.floor(math.log10(half))) if half > 0 else 3
    edges = [edge for edge in (row["above"], row["below"]) if math.isfinite(edge)]
    while digits < 9 and any(round(end, digits) == edge != end for end in ends for edge in edges):
        digits += 1
    return wording.spread_text(*(wording.number_text(end, f".{digits}f") for end in ends))


def write_drawn(
    studies: Iterable[str], out: Path, say: Callable[[str], None]
) -> dict[str, list[str]]:
    """Draw the figures of finished studies, each with its table.

    Returns:
        The names of the figures' files without an ending, by study.
    """
    import matplotlib as mpl

    mpl.use("agg")
    from gradlab.figures.claims import CLAIM_DRAWINGS
    from gradlab.figures.drawings import save_drawing, until_error
    from gradlab.runs.study import load_study

    found: dict[str, list[str]] = {}
    for study in studies:
        names = found[study] = []
        runs = [run for run in load_study(out / study).runs if run.status == "finished"]
        for drawing in until_error(CLAIM_DRAWINGS[study](out / study, runs), study, say):
            files = save_drawing(drawing, out / FIGURES)
            say(f"{study}: {', '.join(file.name for file in files)}")
            names.append(drawing.name)
    return found
