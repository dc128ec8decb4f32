"""The tables and figures beside a study's runs, made from what the runs recorded."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gradlab.config import RunConfig

if TYPE_CHECKING:
    import pandas as pd


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
    from gradlab.runs.files import write_whole

    files = []
    for name, made in tables.items():
        file = out / f"{name}.csv"
        write_whole(file, made.to_csv(index=False, lineterminator="\n").encode())
        files.append(file)
    return files


def write_figures(table: "pd.DataFrame", configs: Sequence[RunConfig], out: Path) -> list[Path]:
    """Figure 5, the differences against the first architecture, and the roads to the break.

    A figure for which the study has no data is left out.
    """
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    from gradlab.analyses.stability_table import FAILURES
    from gradlab.figures.save import save
    from gradlab.figures.stability import lr_at_break
    from gradlab.figures.style import figure_of

    files = []
    if not table["reason"].isin(FAILURES).all():
        files += save(figure_of(lr_at_break(table)), out / "lr_at_break")
        files += _write_differences(table, out)
    files += _write_roads(configs, out)
    plt.close("all")
    return files


def _write_differences(table: "pd.DataFrame", out: Path) -> list[Path]:
    """Each architecture against the study's first, a figure a ramp."""
    from gradlab.analyses.stability import paired_differences
    from gradlab.figures.differences import lr_against_baseline
    from gradlab.figures.save import save
    from gradlab.figures.style import figure_of

    files = []
    for ramp, rows in table.groupby("lr_step", sort=False):
        baseline = rows["arch"].iloc[0]
        found = paired_differences(rows)
        if found.loc[found["baseline"] == baseline, "pairs"].any():
            figure = figure_of(lr_against_baseline(rows, baseline=baseline))
            files += save(figure, out / f"lr_against_{baseline}_ramp{ramp:g}")
    return files


def _write_roads(configs: Sequence[RunConfig], out: Path) -> list[Path]:
    """The road to the break at each size and ramp, a panel for each architecture's first seed."""
    from gradlab.analyses.headroom import tightest_by_layer
    from gradlab.figures.headroom import Road, headroom_panels
    from gradlab.figures.save import save
    from gradlab.figures.style import looks
    from gradlab.runs.reader import load
    from gradlab.runs.study import run_name

    figures: dict[str, dict[str, Road]] = {}
    for config in sorted(configs, key=lambda config: config.seed):
        folder = out / run_name(config)
        panels = figures.setdefault(f"{config.size}_ramp{config.schedule.lr_step:g}", {})
        title = looks([config.arch])[config.arch].label
        if (
            title in panels
            or "headroom" not in config.record.probes
            or not (folder / "run.json").exists()
        ):
            continue
        run = load(folder)
        if run.verdict is None or run.status != "finished":
            continue
        tightest = tightest_by_layer(run.table("headroom"), run.table("steps", ["step", "lr"]))
        panels[title] = Road(tightest, run.verdict.lr if run.verdict.broke else None)
    files = []
    for name, panels in figures.items():
        if panels:
            files += save(headroom_panels(panels), out / f"headroom_{name}")
    return files
