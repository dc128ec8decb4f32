import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from drawable_runs import ALL, STEPS, record
from typer.testing import CliRunner, Result

from gradlab.cli.main import app
from gradlab.config import PrecisionConfig, ScheduleConfig
from gradlab.figures.run_sets import safe_name
from gradlab.runs.reader import load
from gradlab.runs.verdict import Verdict
from gradlab.runs.writer import RunWriter
from gradlab.studies.table import STABILITY


def invoke(*arguments: object, only: Sequence[str] = ()) -> Result:
    few = [word for title in only for word in ("--only", title)]
    return CliRunner().invoke(app, ["figures", *map(str, arguments), *few])


def lines(result: Result) -> list[str]:
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.stdout.splitlines()


def about(result: Result, title: str) -> list[str]:
    return [line for line in lines(result) if line.startswith(title)]


@pytest.fixture
def study(tmp_path: Path) -> Path:
    folder = tmp_path / "study"
    for seed in range(2):
        for arch in ("normformer-resscale", "pre-ln"):
            record(folder / f"{arch}_{seed}", arch, seed)
    return folder


MADE = {
    "course": ["course"],
    "gradients over steps": [
        f"gradients_over_steps_{arch}" for arch in ("pre-ln", "normformer-resscale")
    ],
    "gradient grid": ["gradient_grid"],
    "gradient sizes": ["gradient_sizes"],
    "scales over steps": [
        f"scales_over_steps_{arch}" for arch in ("pre-ln", "normformer-resscale")
    ],
    "figure 2": ["perplexity"],
    "figure 3": ["gradients_fc2"],
    "figure 4": ["scales"],
    "figure 6": ["lambda_resid"],
    "figure 7": ["relative_gradients_early", "relative_gradients_late"],
    "headroom": ["headroom"],
}


NO_TABLE = {"course", "headroom", "gradient_grid"}
NO_TABLE |= {name for names in MADE.values() for name in names if "over_steps" in name}
"""Figures that show whole tables, which the run's folder has."""


def test_every_figure_that_the_tables_allow(study: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = invoke(study, "--out", out, "--format", "svg")
    assert result.exit_code == 0
    for title, names in MADE.items():
        assert [line.split(": ")[1].split(",")[0] for line in about(result, title)] == [
            f"{name}.svg" for name in names
        ]
    written = {name for names in MADE.values() for name in names}
    assert lines(result)[-1] == f"{len(written)} figures in {out}."
    assert {file.stem for file in out.glob("*.svg")} == written
    assert {file.stem for file in out.glob("*.csv")} == written - NO_TABLE
    table = pd.read_csv(out / "lambda_resid.csv")
    assert table["runs"].tolist() == [2, 2]
    assert table["mean"].tolist() == [2, 2]
    relative = pd.read_csv(out / "relative_gradients_late.csv")
    assert set(relative["baseline"]) == {"pre-ln"}
    assert set(relative["pairs"]) == {2}


@pytest.mark.usefixtures("unrendered")
def test_what_would_record_a_table_is_said(tmp_path: Path) -> None:
    run = record(tmp_path / "run", tables=(), val_every=0)
    result = invoke(run)
    assert result.exit_code == 0
    needed = "scales over steps, figure 4 and figure 6 need the table scales: record it with "
    assert f"{needed}--probes scales." in lines(result)
    assert sum("--probes grad_norms" in line for line in lines(result)) == 1  # for five figures
    assert "no validation, which gradlab train --val-every 50 makes" in about(result, "figure 2")[0]
    assert "figure 5 needs stability.csv: make it with gradlab run-stability" in result.stdout
    assert lines(result)[-1] == f"1 figure in {run / 'figures'}."


@pytest.mark.usefixtures("unrendered")
def test_runs_without_the_table_are_left_out_by_name(study: Path, tmp_path: Path) -> None:
    other = record(tmp_path / "other", "normformer", tables=("headroom",))
    result = invoke(study, other, "--out", tmp_path / "out", "--format", "svg", only=["figure 4"])
    (left_out, made) = about(result, "figure 4")
    assert left_out == f"figure 4 leaves out {other}: it did not record the table scales."
    assert made == "figure 4: scales.svg, scales.csv"


def test_a_stability_study_has_figure_5(tmp_path: Path) -> None:
    study = tmp_path / "study"
    study.mkdir()
    rows = [
        {
            **dict.fromkeys(STABILITY.columns),
            **{"size": "nano", "params": 100, "arch": arch, "seed": seed, "lr_step": 1e-3},
            **{"reason": "loss_rise", "step": 9, "lr": lr + seed / 100, "censored": False},
        }
        for arch, lr in {"../a": 0.1, "b": 0.2}.items()
        for seed in range(2)
    ]
    pd.DataFrame(rows).to_csv(study / "stability.csv", index=False)
    result = invoke(study, "--format", "svg")
    assert result.exit_code == 0
    assert about(result, "figure 5") == [
        "figure 5: lr_at_break.svg, lr_at_break.csv",
        "figure 5: lr_against_.._a_ramp0.001.svg, lr_against_.._a_ramp0.001.csv",
    ]
    assert (study / "figures" / "lr_at_break.svg").exists()


@pytest.mark.usefixtures("unrendered")
def test_an_empty_stability_table_leaves_the_others(study: Path, tmp_path: Path) -> None:
    pd.DataFrame(columns=list(STABILITY.columns)).to_csv(study / "stability.csv", index=False)
    result = invoke(study, "--out", tmp_path / "out", "--format", "svg", only=["figure 4"])
    (sentence,) = about(result, "figure 5")
    assert "stability.csv has no rows" in sentence
    assert about(result, "figure 4") == ["figure 4: scales.svg, scales.csv"]


@pytest.mark.usefixtures("unrendered")
def test_a_folder_that_is_no_run_is_status_2(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "nowhere"):
        result = invoke(folder)
        assert result.exit_code == 2
        assert result.stderr.startswith("error: there is no run")
        assert result.stderr.count("\n") == 1


@pytest.mark.usefixtures("unrendered")
def test_a_run_still_being_written_is_drawn_and_named(study: Path, tmp_path: Path) -> None:
    run = record(tmp_path / "live", "normformer", finish=False)
    result = invoke(
        study, run, "--out", tmp_path / "out", "--format", "svg", only=["figure 3", "figure 4"]
    )
    assert lines(result)[0] == (
        f"{run} is drawn as far as it goes: killed, or kept from writing, before its end."
    )
    assert about(result, "figure 3")[0].startswith(f"figure 3 leaves out {run}: it has not reached")
    assert about(result, "figure 4") == ["figure 4: scales.svg, scales.csv"]
    scales = pd.read_csv(tmp_path / "out" / "scales.csv")
    assert set(scales["arch"]) == {"normformer", "normformer-resscale"}


@pytest.mark.usefixtures("unrendered")
def test_a_truncated_table_costs_its_run_only(study: Path, tmp_path: Path) -> None:
    part = min((study / "normformer-resscale_1" / "scales").iterdir())
    part.write_bytes(part.read_bytes()[:-20])
    result = invoke(study, "--out", tmp_path / "out", "--format", "svg")
    (left_out, made) = about(result, "figure 4")
    assert "normformer-resscale_1: " in left_out
    assert f"{part.name} is damaged" in left_out
    assert made == "figure 4: scales.svg, scales.csv"
    assert set(pd.read_csv(tmp_path / "out" / "scales.csv")["runs"]) == {1}
    assert lines(result)[-1].startswith(f"{sum(map(len, MADE.values()))} figures")


@pytest.mark.usefixtures("unrendered")
def test_an_empty_table_is_said(tmp_path: Path) -> None:
    run = record(tmp_path / "run", tables=("headroom",))
    shutil.rmtree(run / "headroom")
    document = json.loads((run / "run.json").read_text())
    del document["writes"]["headroom"]  # as if it had never had a row
    (run / "run.json").write_text(json.dumps(document))
    result = invoke(run, "--format", "svg", only=["headroom", "figure 2"])
    assert about(result, "headroom") == [
        "headroom was not made: its table headroom has no rows: record it at more steps "
        f"(--every) ({run})."
    ]
    assert about(result, "figure 2") == ["figure 2: perplexity.svg, perplexity.csv"]


@pytest.mark.usefixtures("unrendered")
def test_numbers_that_are_all_nan_have_a_sentence_each(tmp_path: Path) -> None:
    runs = [
        record(tmp_path / arch, arch, value=math.nan) for arch in ("normformer-resscale", "pre-ln")
    ]
    result = invoke(*runs, "--out", tmp_path / "out")
    assert about(result, "course") == ["course: course.png, course.pdf"]
    for title in [title for title in MADE if title != "course"]:
        (sentence,) = about(result, title)
        assert "was not made" in sentence
        assert sentence.endswith(".")
    assert "no validation" in about(result, "figure 2")[0]
    assert "or none that is a number" in about(result, "headroom")[0]
    assert lines(result)[-1].startswith("1 figure ")


@pytest.mark.parametrize("steps", [STEPS, 1])
def test_one_layer_and_one_step(request: pytest.FixtureRequest, tmp_path: Path, steps: int) -> None:
    if steps > 1:  # rendered once, where there is least
        request.getfixturevalue("unrendered")
    runs = [
        record(tmp_path / arch, arch, layers=1, steps=steps, val_every=1)
        for arch in ("normformer-resscale", "pre-ln")
    ]
    result = invoke(*runs, "--out", tmp_path / "out", "--format", "svg")
    assert result.exit_code == 0
    for title, names in MADE.items():
        found = about(result, title)
        if steps == 1 and title in ("figure 3", "figure 7"):
            assert "1 step has no room for two windows" in found[0]
        elif steps == 1 and title == "figure 2":
            assert "one validation, which makes no curve" in found[0]
        else:
            assert len(found) == len(names)
            assert "not made" not in "".join(found)


@pytest.mark.usefixtures("unrendered")
def test_runs_that_do_not_compare_have_a_figure_each(study: Path, tmp_path: Path) -> None:
    for arch in ("normformer-resscale", "pre-ln"):
        record(tmp_path / "more" / arch, arch, schedule=ScheduleConfig(lr=5e-3, warmup_steps=2))
    out = tmp_path / "out"
    result = invoke(
        study, tmp_path / "more", "--out", out, "--format", "svg", only=["figure 2", "figure 3"]
    )
    first, *made = about(result, "figure 3")
    assert first == "figure 3 comes 2 times: not all runs compare, as their schedules differ."
    assert [line.split(",")[0] for line in made] == [
        "figure 3: gradients_fc2_nano_constant0.001.svg",
        "figure 3: gradients_fc2_nano_constant0.005.svg",
    ]
    # Figure 2 may have any schedule, but a run of each architecture and seed only once.
    assert "another run of the same architecture and seed" in about(result, "figure 2")[0]
    assert (out / "perplexity.svg").exists()


@pytest.mark.usefixtures("unrendered")
def test_a_run_that_comes_twice_counts_once(study: Path, tmp_path: Path) -> None:
    again = study / "pre-ln_0"
    result = invoke(
        study,
        again,
        again / "run.json",
        "--out",
        tmp_path / "out",
        "--format",
        "svg",
        only=["course"],
    )
    assert not [line for line in lines(result) if "leaves out" in line]


def test_names_are_safe_for_any_file_system(tmp_path: Path) -> None:
    name = "../../$x^{ <b>\n" + "y" * 300
    for seed in range(2):
        record(tmp_path / f"a{seed}", name, seed, model="normformer-resscale")
        record(tmp_path / f"b{seed}", "pre-ln", seed, precision=PrecisionConfig(name="bf16"))
    folders = [tmp_path / f"{kind}{seed}" for kind in "ab" for seed in range(2)]
    result = invoke(*folders, "--out", tmp_path / "out", "--format", "svg", only=["headroom"])
    assert result.exit_code == 0
    files = [file.name for file in (tmp_path / "out").iterdir()]
    assert {f"headroom_nano_constant0.001_12steps_{n}.svg" for n in (1, 2)} <= set(files)
    assert safe_name(name) == f"x_b_{'y' * 96}"
    assert safe_name("..") == "unnamed"


@pytest.mark.usefixtures("unrendered")
def test_runs_that_destabilised_do_not_hold_the_others_back(study: Path, tmp_path: Path) -> None:
    broke = Verdict(reason="loss_rise", step=2, lr=1e-3)
    run = record(tmp_path / "broke", "normformer", steps=STEPS, verdict=broke)
    result = invoke(study, run, "--out", tmp_path / "out", "--format", "svg", only=["figure 4"])
    assert about(result, "figure 4")[0].startswith(f"figure 4 leaves out {run}: it destabilised")
    alone = invoke(run, "--format", "svg", only=["figure 4"])
    assert about(alone, "figure 4") == ["figure 4: scales.svg, scales.csv"]


def own_loop(folder: Path, source: Path, **info: Any) -> Path:
    """The tables of a run as if gradlab.attach had recorded them."""
    writer = RunWriter(folder, None, {"model": "Mine", "tables": ["steps", *ALL], **info})
    for table in ("steps", *ALL):
        rows = load(source).table(table)
        writer.write(table, {name: rows[name].to_numpy(object).tolist() for name in rows})
    writer.finish("finished")
    return folder


@pytest.mark.usefixtures("unrendered")
def test_a_loop_of_ones_own_has_what_needs_no_config(tmp_path: Path) -> None:
    result = invoke(own_loop(tmp_path / "mine", record(tmp_path / "source")), "--format", "svg")
    made = [line.split(":")[0] for line in lines(result) if ".svg" in line]
    assert made == [
        *("course", "headroom", "gradients over steps", "gradient grid", "gradient sizes"),
        *("scales over steps", "figure 3", "figure 4", "figure 6"),
    ]
    assert "only runs of gradlab train --val-every" in about(result, "figure 2")[0]
    assert "no other architecture" in about(result, "figure 7")[0]


@pytest.mark.usefixtures("unrendered")
def test_two_loops_of_ones_own_share_their_figures(tmp_path: Path) -> None:
    source = record(tmp_path / "source", "pre-ln", tables=ALL)
    runs = [
        own_loop(tmp_path / name / "mine", source, meta={"norm": name, "seed": 1})
        for name in ("rms", "layer")
    ]
    few = ["course", "figure 4", "figure 7"]
    result = invoke(*runs, "--out", tmp_path / "out", "--format", "svg", only=few)
    assert about(result, "course") == ["course: course.svg"]
    assert "scales.csv" in about(result, "figure 4")[0], "plain norms have a γ, too"
    table = pd.read_csv(tmp_path / "out" / "relative_gradients_late.csv")
    assert set(table["baseline"]) == {"mine (norm=rms)"}
    assert set(table["arch"]) == {"mine (norm=layer)"}
    assert (table["ratio"] == 1).all()
    scales = pd.read_csv(tmp_path / "out" / "scales.csv")
    assert set(scales["op"]) == {"attn_norm"}


@pytest.mark.usefixtures("unrendered")
def test_nothing_is_overwritten_unless_asked(study: Path, tmp_path: Path) -> None:
    assert invoke(study, "--format", "svg", only=["course"]).exit_code == 0
    again = invoke(study, "--format", "svg", only=["course"])
    assert again.exit_code == 2
    assert "--force" in again.stderr
    assert invoke(study, "--format", "svg", "--force", only=["course"]).exit_code == 0


def test_mistakes_are_refused_before_the_work(study: Path) -> None:
    assert "unknown figure format 'jpg'" in invoke(study, "--format", "jpg").stderr
    mistaken = invoke(study, only=["figure 33"])
    assert "unknown figure 'figure 33': did you mean 'figure 3'" in mistaken.stderr
    assert mistaken.exit_code == 2
    result = invoke(study, "--baseline", "prel-n", only=["figure 3"])
    assert "unknown baseline 'prel-n': did you mean 'pre-ln'" in result.stderr
    assert result.exit_code == 2
    assert not (study / "figures").exists()


def test_a_figure_of_studies_alone_says_nothing_of_the_others(study: Path, tmp_path: Path) -> None:
    result = invoke(study, "--out", tmp_path / "out", only=["league"])
    assert result.exit_code == 1
    assert lines(result) == [
        "league needs a study of gradlab league: name its folder.",
        f"0 figures in {tmp_path / 'out'}.",
    ]
    result = invoke(study, "--out", tmp_path / "out", "--format", "svg", only=["course", "limit"])
    assert result.exit_code == 0
    assert about(result, "figure 5") == []
    assert about(result, "limit") == ["limit needs a study of gradlab limit: name its folder."]
