"""The paper's claims as a table on the screen, and as a page of Markdown with its figures."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gradlab.pages.table import Cell, Table

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
        table: Of `gradlab.analyses.claim.judge_all`, or several side by side
            (`gradlab.analyses.claim_sets`): these have a column each.
    """
    from gradlab.analyses.claim_words import number_text, seeds_text

    if "set" in table:
        headings, *rows = _side_by_side(table)
    else:
        headings = ["claim", "size", "number (95 % interval)", "seeds", "verdict"]
        rows = [
            [
                f"{row['says']} ({row['source']})",
                row["size"],
                number_text(row),
                seeds_text(row),
                row["verdict"],
            ]
            for row in table.to_dict("records")
        ]
    return Table(headings, [[Cell(cell) for cell in row] for row in rows], "The paper's claims")


def document(
    table: "pd.DataFrame",
    lines: Mapping[str, str],
    drawn: Mapping[str, Sequence[str]],
    notes: Sequence[str] = (),
) -> str:
    """The page.

    Args:
        table: As of `claims_table`.
        lines: The command of each study, by its name.
        drawn: The names of its figures, likewise.
        notes: Sentences below the table.
    """
    from gradlab.analyses.claim import RULE

    parts = ["# The paper's claims at small size", markdown_table(table), f"{RULE}.", *notes]
    for name, line in lines.items():
        parts += [f"## {name}", f"```console\n$ {line}\n```"]
        parts += [
            f"![{TITLES.get(stem, stem)}]({FIGURES}/{stem}.png)" for stem in drawn.get(name, [])
        ]
    return "\n\n".join(parts) + "\n"


def markdown_table(table: "pd.DataFrame") -> str:
    """A row a claim: its words, where the paper has it, verdict, number and what that is.

    Args:
        table: As of `claims_table`.
    """
    from gradlab.analyses.claim import VERDICTS
    from gradlab.analyses.claim_words import number_text, seeds_text

    headings = ["claim", "paper", "size", "verdict", "number", "what it is", "seeds"]
    if "set" in table:
        headings, *rows = _side_by_side(table, bold="**")
        return _markdown([headings, *rows])
    rows = [headings]
    for row in table.to_dict("records"):
        verdict = f"**{row['verdict']}**" if row["verdict"] in VERDICTS else row["verdict"]
        cells = [row["says"], row["source"], row["size"] and f"`{row['size']}`", verdict]
        rows.append([*cells, number_text(row), row["meaning"], seeds_text(row)])
    return _markdown(rows)


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    headings, *others = rows
    return "\n".join(
        f"| {' | '.join(cell.replace('|', '&#124;') for cell in row)} |"
        for row in [headings, ["---"] * len(headings), *others]
    )


def _side_by_side(table: "pd.DataFrame", *, bold: str = "") -> list[list[str]]:
    """The headings, then a row a claim; of each set the verdict, the number and the seeds."""
    from gradlab.analyses.claim import VERDICTS
    from gradlab.analyses.claim_words import number_text
    from gradlab.analyses.finding import counted

    sets = list(dict.fromkeys(table["set"]))
    rows = [["claim", "paper", *sets, "what the number is"]]
    for _, claim in table.groupby("claim", sort=False):
        found = dict.fromkeys(sets, "–")
        for row in claim.to_dict("records"):
            found[row["set"]] = row["verdict"]
            if row["verdict"] in VERDICTS:
                said = f"{number_text(row)}, {counted(row['seeds'], 'seed')}"
                found[row["set"]] = f"{bold}{row['verdict']}{bold} {said}"
        first = claim.iloc[0]
        rows.append([first["says"], first["source"], *found.values(), first["meaning"]])
    return rows


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
