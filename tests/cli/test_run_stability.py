import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from gradlab.analyses.stability_table import read_stability
from gradlab.cli.main import app
from gradlab.runs.study import run_name
from gradlab.studies import run as study_module
from gradlab.studies.folder import claim
from gradlab.studies.table import STABILITY

SMALL = [
    *("run-stability", "--device", "cpu", "--n-layers", "1", "--width", "16"),
    *("--max-seq-len", "8", "--batch-size", "2", "--jobs", "2"),
]


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, [*SMALL, *arguments])


@pytest.mark.slow
@pytest.mark.usefixtures("trained_here")
def test_a_study_from_the_command_to_the_figures(tmp_path: Path, text: str) -> None:
    out = tmp_path / "study"
    arguments = ("--corpus", text, "--lr-step", "500", "--steps", "60", "--out", str(out))
    arguments += ("--arch", "pre-ln", "--arch", "normformer", "--seeds", "1")
    result = invoke(*arguments)
    assert result.exit_code == 0, result.stderr
    table = read_stability(out)
    assert len(table) == 2
    for row in table.to_dict("records"):
        assert row["censored"] or row["lr"] == row["step"] * 500
    assert "nano-d16, LR rising by 500 a step" in result.stdout
    assert " than pre-ln on the one seed of both: not distinguished." in result.stdout
    assert (out / "lr_at_break.png").exists()
    assert (out / "headroom_nano-d16_ramp500.pdf").exists()

    again = invoke(*arguments)
    assert again.exit_code == 2
    assert "--resume" in again.stderr
    resumed = invoke(*arguments, "--resume")
    assert resumed.exit_code == 0, resumed.stderr
    assert read_stability(out).equals(table)
    other = invoke(*arguments, "--resume", "--weight-decay", "0")
    assert other.exit_code == 2
    assert "holds another study" in other.stderr


@pytest.mark.slow
@pytest.mark.long
def test_ctrl_c_leaves_results_and_status_130(tmp_path: Path, text: str) -> None:
    out = tmp_path / "study"
    arguments = ["--corpus", text, "--steps", "100000", "--lr-step", "1e-9", "--seeds", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "gradlab.cli", *SMALL, *arguments, "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        # A shell's background jobs, which the tests may be one of, start with SIGINT ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 120
    while not list(out.glob("*/steps/part-*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "--resume" in errors
    assert "Traceback" not in errors
    table = read_stability(out)
    assert set(table["reason"]) == {"interrupted"}


def fake_study(
    monkeypatch: pytest.MonkeyPatch, *, rows: int, failed: int = 0, ends: bool = True
) -> None:
    """A study whose first runs end in a break, whose last ones fail, or that is interrupted."""

    def train_runs(configs, out, *, table, notes, **_):  # type: ignore[no-untyped-def]
        plan = {run_name(config): config for config in configs}
        out.mkdir(parents=True)
        claim(out, plan, resume=False, notes=notes)
        lines = [",".join(STABILITY.columns)]
        for config in configs[:rows]:
            place = f"{config.size},1000,{config.arch},{config.seed},{config.schedule.lr_step}"
            lines.append(f"{place},loss_rise,9,0.{config.seed + 1},False,,0.1,")
        (out / table.file).write_text("\n".join(lines) + "\n")
        if not ends:
            raise KeyboardInterrupt
        return dict.fromkeys(list(plan)[rows:][:failed], "the disk is full")

    monkeypatch.setattr(study_module, "train_runs", train_runs)


def test_failed_runs_are_named_and_give_status_1(
    tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_study(monkeypatch, rows=8, failed=1)
    result = invoke("--corpus", text, "--out", str(tmp_path / "study"))
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-2:] == [
        "error: 1 of 9 runs failed.",
        "nano-d16_normformer-resscale_ramp5e-05_seed2: the disk is full",
    ]
    assert "normformer-resscale" in result.stdout


def test_an_interrupted_study_shows_what_it_has(
    tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_study(monkeypatch, rows=4, ends=False)
    result = invoke("--corpus", text, "--out", str(tmp_path / "study"))
    assert result.exit_code == 130
    assert "pre-ln" in result.stdout
    assert "--resume" in result.stderr
    assert not list((tmp_path / "study").glob("*.png"))


def test_a_study_interrupted_before_any_run_ended(
    tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_study(monkeypatch, rows=0, ends=False)
    out = tmp_path / "a study"
    result = invoke("--corpus", text, "--out", str(out))
    assert result.exit_code == 130
    assert result.stdout == f"No run in {out} has ended: there is nothing to compare.\n"


def test_the_folder_is_named_after_the_sizes(
    tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fake_study(monkeypatch, rows=2)
    assert invoke("--corpus", text, "--width", "32", "--seeds", "1").exit_code == 0
    assert (tmp_path / "studies" / "stability-nano-d16-nano-d32" / "summary.csv").exists()
