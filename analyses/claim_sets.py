"""Judged claims side by side: those of studies at several sizes."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from gradlab.analyses.claim import COLUMNS
from gradlab.errors import GradlabError
from gradlab.runs.command import typed
from gradlab.runs.csv_files import read_csv

CLAIMS_FILE = "claims.csv"
"""What `gradlab claims` calls the table of judged claims, in their folder."""


def read_claims(folder: Path) -> pd.DataFrame:
    """The claims that were judged in a folder (`gradlab.analyses.claim.judge_all`).

    Raises:
        GradlabError: There is no table of them, or it cannot be read.
    """
    file = folder / CLAIMS_FILE
    try:
        table = read_csv(file, dtype={"size": str}, keep_default_na=False, na_values=[""])
        table = table[COLUMNS].astype(dict.fromkeys(("number", "low", "high"), "float64"))
    except FileNotFoundError:
        raise GradlabError(
            f"there are no claims in {folder}: `{typed('gradlab', 'claims', '--out', folder)}` "
            f"writes {CLAIMS_FILE}."
        ) from None
    except (OSError, KeyError, ValueError) as error:
        raise GradlabError(f"{file} cannot be read as a table of claims: {error}") from None
    return table.fillna({"size": ""})


def side_by_side(sets: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Tables of judged claims as one.

    Args:
        sets: Tables of `gradlab.analyses.claim.judge_all`, as of studies at several widths.

    Returns:
        Their rows and columns, and `set`: the sizes of the table that the row is from, as in
        `micro, nano`; with a number where another has the same.
    """
    named: dict[str, pd.DataFrame] = {}
    for table in sets:
        name = label = ", ".join(size for size in table["size"].unique() if size)
        count = 1
        while name in named:
            count += 1
            name = f"{label} ({count})"
        named[name] = table
    return pd.concat([table.assign(set=name) for name, table in named.items()], ignore_index=True)
