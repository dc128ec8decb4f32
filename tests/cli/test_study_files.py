import json
from pathlib import Path

import pandas as pd
import pytest
from made_up_runs import write_headroom, write_steps

from gradlab.analyses.stability import paired_differences, summarise_stability
from gradlab.analyses.stability_table import read_stability
from gradlab.cli.terminal.study_files import write_csvs, write_drawings
from gradlab.config import RunConfig
from gradlab.pages.results import Result, study_result
from gradlab.runs.csv_files import read_csv
from gradlab.runs.study import load_study, run_name
from gradlab.runs.verdict import Verdict
from gradlab.runs.writer import RunWriter
from gradlab.studies import Stability
from gradlab.studies.table import STABILITY

OPTIONS = Stability(arch=["pre-ln", "normformer"], lr_step=[1e-2], seeds=2, steps=30)


def made_up_run(config: RunConfig, out: Path, *, reason: str = "loss_nonfinite") -> None:
    """A run directory of eight steps whose layer 0 loses its headroom at the last."""
    info = {"params": 1000 + 10 * (config.arch == "normformer")}
    writer = RunWriter(out / run_name(config), config, info)
    write_steps(writer, config)
    if config.record.probes:
        write_headroom(writer)
    lr = 0.07 + 0.001 * config.seed + (0.01 + 0.001 * config.seed) * (config.arch == "normformer")
    site = "blocks.0.attention.scores" if reason == "loss_nonfinite" else None
    verdict = Verdict(reason=reason, step=7, lr=lr, first_overflow=site, lr_min_loss=0.03)
    writer.finish("error" if reason == "error" else "finished", verdict)


def made_up_table(configs: list[RunConfig], out: Path) -> pd.DataFrame:
    """The `stability.csv` of made-up runs, as a study writes it."""
    from gradlab.runs.reader import load

    rows = []
    for config in configs:
        run = load(out / run_name(config))
        assert run.verdict is not None
        verdict = {**run.verdict.model_dump(), "censored": run.verdict.censored}
        known = {"size": config.size, "arch": config.arch, "seed": config.seed}
        known |= {"lr_step": config.schedule.lr_step, "params": run.info["params"]}
        rows.append({name: {**verdict, **known}[name] for name in STABILITY.columns})
    names = {run_name(config): config.model_dump(mode="json") for config in configs}
    (out / "study.json").write_text(json.dumps({"runs": names}))
    pd.DataFrame(rows, columns=list(STABILITY.columns)).to_csv(out / "stability.csv", index=False)
    return read_stability(out)


def study(out: Path, options: Stability = OPTIONS, **fields: str) -> list[RunConfig]:
    configs = options.configs()
    for config in configs:
        made_up_run(config, out, **fields)
    return configs


def result_of(folder: Path) -> Result:
    return study_result(load_study(folder), OPTIONS.command())


def test_the_tables_are_those_of_the_analyses(tmp_path: Path) -> None:
    configs = study(tmp_path)
    table = made_up_table(configs, tmp_path)
    files = write_csvs(result_of(tmp_path).files, tmp_path)
    assert [file.name for file in files] == [
        "summary.csv",
        "differences.csv",
        "first_overflows.csv",
    ]
    summary = read_csv(files[0])
    assert summary["lr_median"].tolist() == summarise_stability(table)["lr_median"].tolist()
    differences = read_csv(files[1])
    assert differences["quantity"].tolist() == ["lr", "lr_min_loss", "lr_collapse"]
    assert differences["ratio"][0] == pytest.approx(paired_differences(table)["ratio"][0])
    assert read_csv(files[2])["share"].tolist() == [1.0, 1.0]


def figures(configs: list[RunConfig], folder: Path) -> list[Path]:
    made_up_table(configs, folder)
    return write_drawings(result_of(folder).draw(), folder)


def test_the_figures_of_a_study(tmp_path: Path) -> None:
    configs = study(tmp_path)
    files = figures(configs, tmp_path)
    assert [file.name for file in files] == [
        f"{name}.{form}"
        for name in ("lr_at_break", "lr_against_pre-ln_ramp0.01", "headroom_nano_ramp0.01")
        for form in ("png", "pdf")
    ]
    assert all(file.stat().st_size > 5000 for file in files)


def test_a_study_of_one_architecture_has_no_differences(tmp_path: Path) -> None:
    options = Stability(arch=["pre-ln"], lr_step=[1e-2], seeds=1, probes=["none"])
    configs = study(tmp_path, options)
    files = figures(configs, tmp_path)
    assert [file.name for file in files] == ["lr_at_break.png", "lr_at_break.pdf"]


def test_a_study_whose_runs_all_failed_has_no_figures(tmp_path: Path) -> None:
    configs = study(tmp_path, reason="error")
    assert figures(configs, tmp_path) == []
