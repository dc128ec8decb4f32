"""Which runs are exported, where to, and what is refused."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import gradlab
from gradlab.cli.main import app
from gradlab.config import RecordConfig, RunConfig
from gradlab.errors import ConfigError, GradlabError
from gradlab.runs.verdict import Verdict
from gradlab.runs.writer import RunWriter

Keep = Callable[..., tuple[Path, Any]]


def invoke(*arguments: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["export", *map(str, arguments)])
    return done.exit_code, " ".join(done.stdout.split()), done.stderr


def test_the_command_says_what_it_wrote(keep: Keep, tmp_path: Path) -> None:
    run, _ = keep()
    status, out, _ = invoke(run, "--out", tmp_path / "mine")
    assert status == 0
    written = sorted(path.name for path in (tmp_path / "mine").iterdir())
    assert f"{tmp_path / 'mine'}." in out
    assert all(name in out for name in written)
    assert (tmp_path / "mine/model.safetensors").read_bytes() == (
        run / "model.safetensors"
    ).read_bytes()


def test_in_the_runs_folder_unless_told(keep: Keep) -> None:
    run, _ = keep()
    made = gradlab.export(gradlab.load(run))
    assert made.folder == run / "transformers"
    assert {path.name for path in made.folder.iterdir()} == set(made.files)
    assert gradlab.load(run).status == "finished"  # it is a run as before


def test_nothing_is_overwritten_unless_asked(keep: Keep, tmp_path: Path) -> None:
    run, _ = keep()
    out = tmp_path / "out"
    out.mkdir()
    gradlab.export(run, out=out)  # an empty folder is as good as none
    (out / "config.json").write_text("precious")
    status, _, error = invoke(run, "--out", out)
    assert status == 2
    assert f"{out} is there already" in error
    assert (out / "config.json").read_text() == "precious"
    assert invoke(run, "--out", out, "--force")[0] == 0
    assert json.loads((out / "config.json").read_text())["model_type"] == "gradlab"
    file = tmp_path / "file"
    file.write_text("precious")
    for force in (False, True):
        with pytest.raises(GradlabError):
            gradlab.export(run, out=file, force=force)
    assert file.read_text() == "precious"


def test_a_run_is_not_written_over(keep: Keep) -> None:
    run, other = keep()[0], keep(name="other")[0]
    before = {file: file.read_bytes() for file in other.glob("*.json")}
    for source in (run, other):
        with pytest.raises(GradlabError, match="other holds a run"):
            gradlab.export(source, out=other, force=True)
    assert {file: file.read_bytes() for file in other.glob("*.json")} == before


def test_what_an_earlier_export_left_does_not_stay(keep: Keep, tmp_path: Path) -> None:
    gradlab.export(keep()[0], out=tmp_path / "out")
    (tmp_path / "out/mine.txt").write_text("precious")
    ids, _ = keep(name="ids", fields={"data": {"corpus": "tokens.bin"}})
    made = gradlab.export(ids, out=tmp_path / "out", force=True)
    there = {path.name for path in (tmp_path / "out").iterdir()}
    assert there == {*made.files, "mine.txt"}
    assert "tokenizer.json" not in there


def test_a_run_of_token_files_says_that_it_has_no_tokenizer(keep: Keep) -> None:
    run, _ = keep(fields={"data": {"corpus": "tokens.bin"}})
    made = gradlab.export(run)
    assert "tokenizer.json" not in made.files
    (note,) = made.notes
    assert "There is no tokenizer in it" in note
    assert "tokens.bin" in note


def test_a_broken_model_is_told_of(keep: Keep) -> None:
    run, _ = keep(verdict=Verdict(reason="loss_rise", step=2, lr=0.1, detected_step=3))
    status, out, _ = invoke(run)
    assert status == 0
    assert "broke at step 2 (loss_rise)" in out


@pytest.mark.parametrize("status", ["interrupted", "error"])
def test_an_unfinished_run_is_refused(keep: Keep, status: str) -> None:
    run, _ = keep(status=status)
    code, _, error = invoke(run)
    assert code == 2
    assert f"{run} has not finished, it is {status}: go on with it first" in error
    assert error.count("\n") == 1
    assert not (run / "transformers").exists()


@pytest.mark.parametrize("status", ["interrupted", "error"])
def test_an_unfinished_run_that_keeps_no_weights_is_not_to_go_on(keep: Keep, status: str) -> None:
    run, _ = keep(status=status, fields={"record": RecordConfig()})
    code, _, error = invoke(run)
    assert code == 2
    assert f"{run} is {status}, and keeps no weights at its end: train it again" in error
    again = shlex.split(error.split("`")[1])
    assert again == [
        *("gradlab", "train", "--config", str(run)),
        *("--keep-weights", "--out", f"{run}-weights"),
    ]


def test_a_run_that_was_killed_is_refused(keep: Keep, tmp_path: Path) -> None:
    config = gradlab.load(keep()[0]).config
    RunWriter(tmp_path / "killed", config, {}).give_up()
    with pytest.raises(GradlabError, match="has not finished, it is stopped"):
        gradlab.export(tmp_path / "killed")


def test_a_run_without_weights_says_how_to_have_them(keep: Keep) -> None:
    run, _ = keep(weights=False)
    code, _, error = invoke(run)
    assert code == 2
    assert f"{run} kept no weights: train it again with them" in error
    assert f"gradlab train --config {run} --keep-weights" in error


def test_a_study_is_not_one_run(keep: Keep) -> None:
    run, _ = keep()
    code, _, error = invoke(run.parent)
    assert code == 2
    assert f"is not one run but holds 1: name one of them, as {run}" in error


def test_other_things_are_refused_in_one_sentence(keep: Keep, tmp_path: Path) -> None:
    run, _ = keep()
    for arguments, sentence in [
        (
            (run, "--to", "transformer"),
            "unknown library 'transformer': did you mean 'transformers'",
        ),
        ((tmp_path / "none",), "there is no run"),
    ]:
        code, _, error = invoke(*arguments)
        assert code == 2, error
        assert sentence in error
        assert error.count("\n") == 1
    with pytest.raises(GradlabError, match="is no path"):
        gradlab.export(run, out="")


def test_weights_that_are_damaged_or_anothers_are_refused(keep: Keep) -> None:
    run, _ = keep()
    file = run / "model.safetensors"
    whole = file.read_bytes()
    for content in (b"", whole[:100], whole[:-1], b"{" * len(whole)):
        file.write_bytes(content)
        with pytest.raises(GradlabError, match=r"run: model.safetensors is damaged"):
            gradlab.export(run)
    other, _ = keep("pre-ln", name="other")
    file.write_bytes((other / "model.safetensors").read_bytes())
    with pytest.raises(GradlabError, match="weights of another model"):
        gradlab.export(run)
    half, _ = keep(name="half", precision="fp16-pure")
    assert gradlab.load_model(half).embed.weight.dtype == torch.float16


def test_a_loop_of_ones_own_has_no_model_of_gradlabs(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradlab.attach(model, optimizer, out=tmp_path / "mine"):
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
    with pytest.raises(GradlabError, match=r"recorded by gradlab.attach in a loop of its own"):
        gradlab.export(tmp_path / "mine")


def test_weights_are_kept_as_they_are_at_the_end(tmp_path: Path) -> None:
    """They give the validation loss that the run has after its last step."""
    text = tmp_path / "text.txt"
    text.write_text("a rose is a rose is a rose. " * 40)
    settings: dict[str, Any] = {
        **{"width": 16, "n_layers": 1, "max_seq_len": 8, "batch_size": 2, "steps": 5, "lr": 0.01},
        **{"corpus": str(text), "device": "cpu", "precision": "fp32", "keep_weights": True},
        **{"val_every": 5, "val_batches": 1},
    }
    run = gradlab.train("normformer", out=tmp_path / "run", **settings)
    model = gradlab.load_model(run)
    held_out = torch.tensor([*text.read_bytes()][int(40 * 28 * 0.95) :])
    windows = held_out[torch.stack([torch.arange(9), torch.arange(9) + len(held_out) - 9])]
    losses = -model(windows[:, :-1]).log_softmax(-1).gather(-1, windows[:, 1:, None])
    assert losses.mean().item() == pytest.approx(run.table("steps")["val_loss"].iloc[-1], rel=1e-5)
    assert not model.training
    none = gradlab.train("normformer", out=tmp_path / "none", **{**settings, "keep_weights": False})
    assert not (none.path / "model.safetensors").exists()
    with pytest.raises(ConfigError, match="keep_weights needs out"):
        gradlab.train("normformer", **settings)
    kept_in_memory = gradlab.train("normformer", **{**settings, "keep_weights": False})
    with pytest.raises(GradlabError, match="kept in memory, which keeps no weights"):
        gradlab.export(kept_in_memory)


def test_a_config_of_before_keeps_none(keep: Keep) -> None:
    document = gradlab.load(keep()[0]).config.model_dump(mode="json")
    del document["record"]["keep_weights"]
    assert not RunConfig.from_mapping(document).record.keep_weights
