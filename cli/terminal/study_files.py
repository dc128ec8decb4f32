"""The tables and figures beside a study's runs, made from what the runs recorded."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from gradlab.figures.kind import Drawing
    from gradlab.runs.study import StudyRecord


def write_tables(table: "pd.DataFrame", out: Path) -> list[Path]:
    """`summary.csv`, `differences.csv` of all three learning rates, `first_overflows.csv`."""
    import pandas as pd

    from gradlab.analyses.stability import (
        first_overflow_sites,
        paired_differences,
        summarise_stability,
    )
    from gradlab.analyses.stability_table import QUANTITIES

    differences = [paired_differences(table, value).assign(quantity=value) for value in QUANTITIES]
    tables = {
        "summary": summarise_stability(table),
        "differences": pd.concat(differences, ignore_index=True),
        "first_overflows": first_overflow_sites(table),
    }
    return write_csvs(tables, out)


def files_line(out: Path, files: Sequence[Path], *, each: str = "run") -> str:
    """Where a study's files lie, in a sentence; its other folders are one for `each`."""
    return f"In {out}: {', '.join(file.name for file in files)}; a folder a {each}."


def write_csvs(tables: Mapping[str, "pd.DataFrame"], out: Path) -> list[Path]:
    """Each table as a CSV file of its name."""
    from gradlab.runs.csv_files import write_csv

    return [write_csv(out / f"{name}.csv", table) for name, table in tables.items()]


def write_drawings(made: "Iterable[Drawing]", out: Path) -> list[Path]:
    """Figures without the tables behind them, which a study has in files of its own."""
    import matplotlib as mpl

    mpl.use("agg")
    from gradlab.figures.drawings import save_drawing

    return [file for drawing in made for file in save_drawing(replace(drawing, table=None), out)]


def write_figures(table: "pd.DataFrame", record: "StudyRecord") -> list[Path]:
    """Figure 5, the differences against the first architecture, and the roads to the break.

    A figure for which the study has no data is left out.
    """
    import matplotlib as mpl

    mpl.use("agg")
    from gradlab.figures.drawings import study_drawings

    return write_drawings(study_drawings(table, record.runs, note=lambda _: None), record.folder)
