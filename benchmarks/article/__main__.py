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
from gradlab.runs.csv_files import read_csv
from gradlab.studies.run import run_study

SIZES = {"scans": "nano-d32", "losses": "nano", "loops": "nano-d32"}
"""The tables, with the size of their models."""


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    if not options.recorded:
        record(options.folder, options.jobs)
    table = judged({name: read_csv(options.folder / f"{name}.csv") for name in SIZES})
    table.to_csv(options.folder / "claims.csv", index=False)
    print(markdown_table(table))


def record(folder: Path, jobs: int | None) -> None:
    """Train what has not been trained, and write the tables."""
    studies = {
        name: run_study(study, folder / name, jobs=jobs, resume=True)
        for name, study in STUDIES.items()
    }
    tables.scans(studies).to_csv(folder / "scans.csv", index=False)
    tables.losses(studies).to_csv(folder / "losses.csv", index=False)
    tables.loops(seeds=3).to_csv(folder / "loops.csv", index=False)


def judged(found: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """The claims, judged by the tables."""
    sources = {name: StudyTables(size, {name: found[name]}) for name, size in SIZES.items()}
    return judge_all(CLAIMS, sources)


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
