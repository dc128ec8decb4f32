"""`gradlab replay`, from its words to its sentences."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from planted_break import BREAK, LEFT_AT, planted
from tiny_runs import config_of, corpus_file
from typer.testing import CliRunner

import gradlab
from gradlab.cli.main import app, load_command
from gradlab.pages.repeat import commands_for
from gradlab.training import loop
from gradlab.training.loop import train

__all__ = ["corpus_file"]


@pytest.fixture(scope="module")
def broken(corpus_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    place = tmp_path_factory.mktemp("runs") / "run"
    train(planted(config_of(corpus_file)), place)
    return place


def replay(*words: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["replay", *map(str, words)])
    return done.exit_code, " ".join(done.stdout.split()), " ".join(done.stderr.split())


def test_it_says_whether_bits_are_the_same_and_where_the_record_is(broken: Path) -> None:
    code, said, _ = replay(broken, "--from", BREAK - 2)
    assert code == 0
    assert f"From step {BREAK - 2}, unchanged, the run breaks at step {BREAK}, as recorded." in said
    assert f"the same to the bit over steps {BREAK - 2} to {LEFT_AT}." in said
    assert str(broken / "replays" / "1") in said
    kept = gradlab.load(broken / "replays" / "1")
    assert kept.info["replay"]["from"] == BREAK - 2
    assert len(kept.table("overflows")) > 0
    inspected = " ".join(str(gradlab.inspect(kept)).split())
    assert f"a replay of {broken} from step {BREAK - 2}, unchanged" in inspected
    assert commands_for([kept]) == [None]
    code, _, said = replay(broken, "--out", broken)
    assert code == 2
    assert "holds something already" in said
    code, said, _ = replay(broken / "run.json", "--from", BREAK, "--probes", "none")
    assert code == 0
    assert str(broken / "replays" / "2") in said


def test_it_says_whether_what_is_changed_removes_the_break(broken: Path, tmp_path: Path) -> None:
    words = ["--precision", "fp32", "--lr-scale", 0.5, "--skip-batch", "--set", "clip_norm=0.1"]
    out = ["--probes", "none", "--beyond", 3, "--out", tmp_path / "again"]
    code, said, _ = replay(broken, "--from", BREAK - 1, *words, *out)
    assert code == 0
    assert (
        f"From step {BREAK - 1}, with precision fp32, clip_norm 0.1, learning rate × 0.5, without "
        f"that batch, the run does not break up to step {LEFT_AT + 3}" in said
    )
    assert gradlab.load(tmp_path / "again").config.optimizer.clip_norm == 0.1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--from", BREAK + 5], f"broke at step {BREAK}"),
        (["--set", "ep=1"], "did you mean 'eps'"),
        (["--set", "eps"], "write it as eps=1e-6"),
        (["--set", "n_layers=9"], "another experiment"),
        (["--precision", "fp12"], "fp12"),
        (["--probes", "nothing"], "unknown probe 'nothing'"),
        (["--change", "fp32"], "go with --explain"),
        (["--repetitions", 2], "go with --explain"),
    ],
)
def test_mistakes_are_told_in_a_sentence(broken: Path, words: list[object], says: str) -> None:
    code, _, said = replay(broken, *words)
    assert code == 2
    assert says in said
    assert not (broken / "replays" / "3").exists()


def test_there_is_no_such_run(tmp_path: Path) -> None:
    code, _, said = replay(tmp_path / "nothing")
    assert code == 2
    assert "the folder does not exist" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
def test_an_explanation_prints_its_table_and_its_sentence(broken: Path) -> None:
    words = ["--explain", "--change", "fp32", "--repetitions", 1, "--beyond", 2, "--jobs", 1]
    code, said, _ = replay(broken, *words)
    assert code == 0
    assert re.search(r"unchanged – 0 of 1 step \d+ step 60 fp32", said)
    assert "fp32 precision fp32 1 of 1" in said
    assert f"The break at step {BREAK} is removed by fp32 (1 of 1)." in said
    assert str(broken / "explanation") in said
    code, _, said = replay(broken, "--explain", "--precision", "fp32")
    assert code == 2
    assert "name others with --change" in said
    code, _, said = replay(broken, "--explain", "--probes", "scales")
    assert code == 2
    assert "leave out --probes" in said


def test_ctrl_c_says_where_what_was_made_lies(
    broken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, out, early = loop.training_step, tmp_path / "made again", False

    def interrupted(*given: object, **named: object) -> object:
        if early or (out / "run.json").exists():
            raise KeyboardInterrupt
        return step(*given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "training_step", interrupted)
    code, _, said = replay(broken, "--from", BREAK - 2, "--out", out)
    assert code == 130
    (command,) = re.findall("`gradlab (.*)`", said)
    assert CliRunner().invoke(app, shlex.split(command)).exit_code == 0
    early = True
    code, _, said = replay(broken, "--from", BREAK - 2, "--out", tmp_path / "other")
    assert code == 130
    assert "interrupted" in said
    assert "a replay begins anew" in said


def test_ctrl_c_prints_the_command_of_an_explanation(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gradlab.replays.explain.explain", interrupted)
    words = ["--explain", "--change", "clip_norm=0.1,eps=1e-6", "--jobs", "1", "--from", "9"]
    words += ["--out", str(tmp_path / "why not"), str(tmp_path / "a run")]
    code, _, said = replay(*words)
    assert code == 130
    (command,) = re.findall("`gradlab replay (.*)`", said)
    asked = load_command("replay").make_context("replay", shlex.split(command)).params
    assert asked == load_command("replay").make_context("replay", words).params
