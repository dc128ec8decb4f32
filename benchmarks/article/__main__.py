"""`python -m benchmarks.article`: see the package."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

import benchmarks.article
from benchmarks.article import tables
from benchmarks.article.claims import CLAIMS
from benchmarks.article.studies import STUDIES
from gradlab.analyses.claim import StudyTables, judge_all
from gradlab.pages.claims import markdown_table
from gradlab.runs.csv_files import read_csv, write_csv
from gradlab.runs.study import StudyRecord
from gradlab.studies.run import run_study

SIZES = {"scans": "nano-d32", "losses": "nano", "loops": "nano-d32"}
"""The tables, with the size of their models."""


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    if not options.recorded:
        record(options.folder, options.jobs)
    table = judged(options.folder)
    write_csv(options.folder / "claims.csv", table)
    print(markdown_table(table).replace("| paper |", "| section |", 1))


def record(folder: Path, jobs: int | None) -> None:
    """Train what has not been trained, and write the tables as far as they are known."""
    write_csv(folder / "loops.csv", tables.loops(seeds=3))
    made: dict[str, StudyRecord] = {}
    for name, study in STUDIES.items():
        made[name] = run_study(study, folder / name, jobs=jobs, resume=True)
        write_csv(folder / "scans.csv", tables.scans(made))
        if "norms" in made:
            write_csv(folder / "losses.csv", tables.losses(made))


def judged(folder: Path) -> pd.DataFrame:
    """The claims, judged by the tables in a folder; those of runs that are not there are left out.

    Raises:
        SystemExit: There is no table.
    """
    found = {name: folder / f"{name}.csv" for name in SIZES}
    sources = {
        name: StudyTables(SIZES[name], {name: read_csv(file)})
        for name, file in found.items()
        if file.exists()
    }
    if not sources:
        raise SystemExit(f"no table of claims in {folder}: leave out --recorded to make them.")
    table = judge_all(CLAIMS, sources)
    return table[table["seeds"] > 0]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=benchmarks.article.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--folder", type=Path, required=True, help="where runs and tables are kept")
    parser.add_argument("--jobs", type=int, help="runs at a time; a core each unless given")
    parser.add_argument("--recorded", action="store_true", help="train nothing")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
