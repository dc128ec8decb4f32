import re
import shlex
import signal
from pathlib import Path
from typing import Any

import pytest
from made_up_runs import write_rows
from typer.testing import CliRunner, Result

import gradlab
from gradlab.analyses.ending import CAUSES
from gradlab.cli.commands.train import first_overflow_text
from gradlab.cli.main import app, load_command
from gradlab.runs.memory import MemoryWriter
from gradlab.runs.same import differences
from gradlab.runs.verdict import NOT_LOOKED_AT, Reason, Verdict
from gradlab.settings import OneRun
from gradlab.training import loop

SMALL = ["--n-layers", "1", "--width", "16", "--max-seq-len", "8", "--batch-size", "2"]


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["train", "--device", "cpu", *SMALL, *arguments])


def test_a_run_is_recorded_and_summed_up(tmp_path: Path, text: str) -> None:
    out = tmp_path / "run"
    result = invoke("--corpus", text, "--steps", "6", "--val-every", "3", "--out", str(out))
    assert result.exit_code == 0, result.stderr
    run = gradlab.load(out)
    steps = run.table("steps")
    assert len(steps) == 6
    lines = {line.split("  ")[0]: line for line in result.stdout.splitlines()}
    assert "pre-ln, nano-d16, fp32, seed 0" in lines["run"]
    assert "Reached its last step: 6 steps recorded, the last is step 5." in lines["end"]
    assert f"{steps['loss'].mean():.4f}, mean of the last 6 steps" in lines["loss"]
    validated = steps[steps["val_loss"].notna()].iloc[-1]
    assert f"{validated['val_loss']:.4f} after step {validated['step']}" in lines["validation"]
    outputs = run.table("headroom").query("direction == 'forward'")
    least = outputs.loc[outputs["headroom_bits"].idxmin()]
    assert f"{least['site']}: {least['headroom_bits']:.1f} bits left" in lines["least headroom"]
    assert str(out) in lines["in"]
    assert "step 1/6" in result.stderr


def test_a_break_is_told_with_its_cause(tmp_path: Path, text: str) -> None:
    result = invoke(
        *("--corpus", text, "--steps", "40", "--schedule", "ramp", "--lr-step", "1000"),
        *("--precision", "fp16", "--out", str(tmp_path / "run")),
    )
    assert result.exit_code == 0, result.stderr
    verdict = gradlab.load(tmp_path / "run").verdict
    assert verdict is not None
    assert verdict.broke
    told = " ".join(result.stdout.split())
    assert f"end Destabilised at step {verdict.step}, LR " in told
    assert CAUSES[verdict.reason] in told
    assert f"first overflow {verdict.first_overflow} " in told


def test_a_run_can_be_repeated_from_its_folder(tmp_path: Path, text: str) -> None:
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    assert invoke("--corpus", text, "--steps", "3", "--lr", "0.01", "--out", first).exit_code == 0
    again = CliRunner().invoke(app, ["train", "--config", first, "--out", second])
    assert again.exit_code == 0, again.stderr
    assert gradlab.load(first).config == gradlab.load(second).config
    losses = [gradlab.load(out).table("steps")["loss"].tolist() for out in (first, second)]
    assert losses[0] == losses[1]


def test_the_folder_is_named_after_the_run(
    tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert invoke("--corpus", text, "--steps", "2", "--seed", "3").exit_code == 0
    (run,) = (tmp_path / "runs").iterdir()
    assert run.name == "nano-d16_pre-ln_constant0.001_seed3"


def test_nothing_is_overwritten(tmp_path: Path, text: str) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "mine.txt").write_text("precious")
    result = invoke("--corpus", text, "--steps", "2", "--out", str(out))
    assert result.exit_code == 2
    assert "is not empty" in result.stderr
    assert (out / "mine.txt").read_text() == "precious"


def test_ctrl_c_leaves_a_readable_run(
    tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, taken = loop.training_step, 0

    def interrupted(*arguments: object, **options: object) -> object:
        nonlocal taken
        taken += 1
        if taken == 4:
            raise KeyboardInterrupt
        return step(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "training_step", interrupted)
    out = tmp_path / "run"
    result = invoke("--corpus", text, "--steps", "50", "--out", str(out))
    assert result.exit_code == 130
    assert "interrupted" in result.stderr
    told = " ".join(result.stdout.split())
    assert "end Interrupted before its end (Ctrl-C): 3 steps recorded, the last is step 2." in told
    assert gradlab.load(out).table("steps")["step"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--device", "cuda:99"], "device 'cuda:99': "),
        (["--device", "gpu"], "unknown device 'gpu'"),
        (["--corpus", "no/such/text.txt"], "no/such/text.txt"),
        (["--objective", "mlm"], "unknown objective 'mlm'"),
        (["--lr", "-1"], "lr = -1.0 should be greater than 0"),
        (["--schedule", "warm"], "unknown schedule 'warm'"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path: Path, arguments: list[str], sentence: str) -> None:
    result = invoke("--out", str(tmp_path / "run"), *arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert sentence in result.stderr
    assert not (tmp_path / "run").exists()


def test_an_interrupted_run_goes_on_and_a_finished_one_says_so(
    tmp_path: Path,
    text: str,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    out = str(tmp_path / "a run's")
    options = ("--corpus", text, "--steps", "4", "--out", out)
    # In the background of a script it is ignored, and then left alone.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    step = loop.training_step

    def interrupted(*given: Any, **named: Any) -> Any:
        signal.raise_signal(signal.SIGINT)  # held back until the step is over
        return step(*given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "training_step", interrupted)
        stopped = invoke(*options)
    assert stopped.exit_code == 130
    (command,) = re.findall("`gradlab (.*)`", stopped.stderr)
    assert len(gradlab.load(out).table("steps")) == 1
    refused = invoke(*options)
    assert refused.exit_code == 2
    assert (
        f"holds a run already: choose another folder, or go on with it by `gradlab {command}`"
        in (refused.stderr)
    )
    again = CliRunner().invoke(app, shlex.split(command))
    assert again.exit_code == 0, again.stderr
    assert gradlab.load(out).table("steps")["step"].tolist() == [0, 1, 2, 3]
    over = CliRunner().invoke(app, shlex.split(command))
    assert over.exit_code == 0
    assert "has finished: there is nothing to resume." in over.stderr
    assert "holds a run that has finished: choose another folder." in invoke(*options).stderr
    assert "Reached its last step" in over.stdout
    other = invoke(*options, "--resume", "--seed", "1")
    assert other.exit_code == 2
    assert "--seed is 0 there and 1 here" in " ".join(other.stderr.split())


def test_what_differs_is_told_by_its_option() -> None:
    before = OneRun(warmup=3, schedule="linear", precision="fp16").config()
    now = OneRun(width=32, schedule="ramp", lr_step=1e-3, precision="bf16", keep_going=True)
    told = {word.split()[0] for word in differences(before, now.config())}
    options = {name for param in load_command("train").params for name in param.opts}
    assert told <= options
    assert {"--width", "--schedule", "--lr-step", "--precision", "--warmup"} <= told
    assert "--keep-going is False there and True here" in differences(before, now.config())


@pytest.mark.parametrize("meeting", [(), ("MASTER_ADDR",), ("MASTER_ADDR", "MASTER_PORT")])
def test_of_several_processes_advice_leads_to_a_run(
    tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch, meeting: tuple[str, ...]
) -> None:
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", **dict.fromkeys(meeting, "1")}.items():
        monkeypatch.setenv(name, value)
    out = tmp_path / "run"
    options = ("--corpus", text, "--steps", "1", "--batch-size", "2", "--out", str(out))
    alone = invoke(*options, "--parallel", "none")
    if len(meeting) == 2:
        assert alone.exit_code == 2
        assert "each of the 2 processes" in alone.stderr
        assert "leave it out" in alone.stderr
        assert str(out) not in alone.stderr  # each may have named another one
        assert not out.exists()
    else:
        assert alone.exit_code == 0, alone.stderr
        together = invoke(*options)
        assert together.exit_code == 2
        assert "parallel = 'none'" in " ".join(together.stderr.split())


def test_the_first_overflow_is_the_breaks_or_is_said_to_be_none() -> None:
    def told(reason: Reason, site: str | None, step: int = 8) -> str:
        verdict = Verdict(reason=reason, step=step, detected_step=step + 9, first_overflow=site)
        return first_overflow_text(writer.run(), verdict)

    writer = MemoryWriter(None, {"tables": ["steps", "overflows"]})
    assert told("loss_nonfinite", "blocks.0.q") == "blocks.0.q"
    assert told("loss_nonfinite", NOT_LOOKED_AT) == "not looked at"
    assert told("loss_nonfinite", None) == "none: the loss was not finite"
    rows = {"step": [0, 0, 9], "order": [1, 0, 0], "site": ["b", "a", "c"]}
    write_rows(writer, "overflows", **rows, producer=[None, "p", "q"])
    # The one within the streak that broke it, not the loss scale's at the first step.
    unseen = "the step of the break, 8, was not looked at"
    assert told("grad_nonfinite", NOT_LOOKED_AT) == f"q at step 9; {unseen}"
    assert told("grad_nonfinite", NOT_LOOKED_AT, 10) == (
        "p at step 0; the step of the break, 10, was not looked at"
    )
    assert told("loss_rise", None) == "none: the loss rose for good"
    assert told("loss_rise", "blocks.0.q") == "blocks.0.q"


def test_losses_that_were_not_finite_have_no_mean(tmp_path: Path, text: str) -> None:
    result = invoke(
        "--corpus", text, "--lr", "1e30", "--steps", "3", "--out", str(tmp_path / "run")
    )
    assert result.exit_code == 0, result.output
    assert "not finite at 2 of the last 3 steps" in result.stdout
