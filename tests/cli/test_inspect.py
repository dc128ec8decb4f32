import re
import shlex
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest
import torch
from rich.cells import cell_len
from rich.console import Console
from torch import nn
from typer.testing import CliRunner, Result

import gradlab
from gradlab.analyses.finding import Finding
from gradlab.analyses.finding_text import cell_text
from gradlab.cli.main import app
from gradlab.pages.inspection import Inspection
from gradlab.runs.reader import Run

PROBES = ("headroom", "grad_norms", "scales", "optimizer")


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["inspect", *map(str, arguments)])


def words(text: str) -> str:
    """Output without its line ends: where a sentence is folded depends on the width."""
    return " ".join(text.split())


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A tiny Pre-LN that really breaks, by an overflow."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("broken")
    (folder / "text.txt").write_text("a rose is a rose is a rose. " * 40)
    done = CliRunner().invoke(
        app,
        [
            *("train", "--corpus", str(folder / "text.txt"), "--device", "cpu", "--steps", "300"),
            *("--n-layers", "2", "--width", "16", "--max-seq-len", "8", "--batch-size", "2"),
            *("--schedule", "ramp", "--lr-step", "0.5", "--margin", "1e9", "--precision", "fp16"),
            *("--every", "2"),
            *(part for probe in PROBES for part in ("--probes", probe)),
            *("--out", str(folder / "run")),
        ],
    )
    assert done.exit_code == 0, done.stderr
    run = gradlab.load(folder / "run")
    assert run.verdict is not None
    assert run.verdict.first_overflow is not None
    return run


def test_what_happened_in_a_run_that_broke(broken: Run) -> None:
    assert broken.path is not None
    result = invoke(broken.path)
    assert result.exit_code == 0, result.stderr
    out, verdict = words(result.stdout), broken.verdict
    assert verdict is not None
    assert f"end Destabilised at step {verdict.step}, LR {verdict.lr:.3g}" in out
    assert f"first overflow {verdict.first_overflow} (step {verdict.step}, LR" in out
    for what in ("what led to it", "least headroom", "skipped steps", "loss scale", "updates"):
        assert f"\n{what} " in f"\n{result.stdout}"
    assert "not recorded scores, hidden, entropy, states; to have them: --probes all." in out

    headroom = broken.table("headroom")
    half = headroom[(headroom["dtype"] == "float16") & (headroom["direction"] == "forward")]
    overflowed = half.loc[half["headroom_bits"] == -float("inf"), "step"]
    half = half[~half["step"].isin(overflowed)]
    least = half.loc[half["headroom_bits"].idxmin()]
    tight = f"{least['site']}: {least['headroom_bits']:.1f} bits left at step {least['step']}"
    assert tight in out


def test_as_many_rows_as_asked_for(broken: Run) -> None:
    assert broken.path is not None

    def rows(result: Result) -> int:
        table = result.stdout.partition("least headroom")[2].partition("gradient headroom")[0]
        return len(re.findall(r"^  \S+ +−?\d+\.\d ", table, flags=re.MULTILINE))

    assert rows(invoke(broken.path)) == 5
    assert rows(invoke(broken.path / "run.json", "--top", "2")) == 2


def test_a_run_of_ones_own_loop(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradlab.attach(model, optimizer, out=tmp_path / "run"):
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.ones(2, 4)).pow(2).sum().backward()
            optimizer.step()
        running = words(invoke(tmp_path / "run").stdout)
    assert "Still being written: no step was recorded" in running
    result = invoke(tmp_path / "run")
    assert result.exit_code == 0, result.stderr
    out = words(result.stdout)
    assert "run A Sequential, trained by a loop of its own (gradlab.attach)." in out
    assert "which gradlab.attach does not judge: 3 steps recorded, the last is step 2." in out
    assert "no tensor that was looked at is FP16" in out
    assert "gradlab.probes.AttentionScores()" in out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            [__file__],
            f"there is no run in {__file__}: it is a file, and a run or a study is a folder.",
        ),
        (["no/such/run"], "there is no run no/such/run: the folder does not exist."),
        ([""], "'' is no path: give a file's or a folder's name."),
        ([], "RUN"),
        (["x", "--top", "0"], "--top"),
    ],
)
def test_mistakes_are_one_sentence(arguments: list[str], sentence: str) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert sentence in result.stderr
    assert result.stdout == ""


def test_a_study_is_no_run(broken: Run) -> None:
    assert broken.path is not None
    result = invoke(broken.path.parent)
    assert result.exit_code == 2
    error, proposed = result.stderr.splitlines()
    assert "is not one run but holds 1: name one of them, as " in error
    assert invoke(*shlex.split(proposed)[3:]).exit_code == 0


@pytest.mark.parametrize("width", [60, 80, 120])
def test_nothing_is_wider_than_the_screen(broken: Run, width: int) -> None:
    assert broken.path is not None
    result = CliRunner().invoke(app, ["inspect", str(broken.path)], env={"COLUMNS": str(width)})
    assert max(map(cell_len, result.stdout.splitlines())) <= width
    assert "…" not in result.stdout


def test_cells() -> None:
    cells = {"change_bits": -1.04, "share": 0.125, "lr": 0.1234, "numel": 512, "site": "a.b"}
    assert [cell_text(*cell) for cell in cells.items()] == [
        *("−1.0", "12.5 %", "0.123", "512", "a.b")
    ]
    assert cell_text("headroom_bits", -float("inf")) == "−inf"
    assert [cell_text("x", missing) for missing in (None, pd.NA, float("nan"))] == ["–"] * 3


def test_a_course_over_steps_runs_across() -> None:
    table = pd.DataFrame({"step": [7, 8], "lr": [0.5, 0.25], "conv1": [1.04, -float("inf")]})
    console = Console(file=StringIO(), width=80, markup=False)
    console.print(Inspection([Finding("what", "A sentence [1].", table)]))
    file = console.file
    assert isinstance(file, StringIO)
    assert [line.split() for line in file.getvalue().splitlines() if line.strip()] == [
        ["what", "A", "sentence", "[1]."],
        ["step", "7", "8"],
        ["LR", "0.5", "0.25"],
        ["conv1", "1.0", "−inf"],
    ]
