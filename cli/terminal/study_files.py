"""The tables and figures beside a study's runs, made from what the runs recorded."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from gradlab.figures.kind import Drawing


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
