# Options of the model are given to these classes where they are made, out of reach of mypy.
# mypy: disable-error-code="call-arg"

from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from gradlab.cli.main import app
from gradlab.cli.options.command import Place, with_options
from gradlab.config import RunConfig
from gradlab.runs.writer import RunWriter
from gradlab.settings import OneRun
from gradlab.studies import Stability


def parse(options: type[Any], *arguments: str) -> Any:
    """What a command with these options would be given."""
    seen: list[Any] = []
    command = typer.Typer(pretty_exceptions_enable=False)

    def see(given: Any, place: Place) -> None:
        seen.extend([given, place])

    see.__annotations__ = {"given": options, "place": Place}
    command.command()(with_options(see))
    result = CliRunner().invoke(command, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return seen[0]


def refused(file: Path) -> Result:
    result = CliRunner().invoke(app, ["run-stability", "--config", str(file)])
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    return result


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_every_kind_of_option_can_be_set(tmp_path: Path) -> None:
    file = write(
        tmp_path / "study.toml",
        'arch = ["post-ln", "pre-ln"]\nsize = "micro"\nlr-step = [1e-4, 2e-4]\nseeds = 5\n'
        'weight_decay = 0.1\nmaster-weights = false\nprecision = "fp16-pure"\nqkv_norm = true\n'
        'attn_out_norm = false\nout = "studies/mine"\nclip_norm = 1\nresume = true\n',
    )
    assert parse(Stability, "--config", str(file)) == Stability(
        arch=["post-ln", "pre-ln"],
        size=["micro"],
        lr_step=[1e-4, 2e-4],
        seeds=5,
        weight_decay=0.1,
        master_weights=False,
        precision="fp16-pure",
        qkv_norm=True,
        attn_out_norm=False,
        clip_norm=1.0,
    )


def test_the_command_line_wins_wherever_it_stands(tmp_path: Path) -> None:
    file = write(tmp_path / "a.toml", 'arch = ["post-ln"]\nseeds = 5\nqkv_norm = true\nsteps = 9\n')
    given = ("--seeds", "2", "--arch", "pre-ln", "--no-qkv-norm")
    for arguments in ((*given, "--config", str(file)), ("--config", str(file), *given)):
        options = parse(Stability, *arguments)
        assert (options.seeds, options.arch, options.model["qkv_norm"], options.steps) == (
            2,
            ("pre-ln",),
            False,
            9,
        )


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("lr_stpe = 1e-4", "unknown option 'lr_stpe': did you mean 'lr_step'"),
        ("[optimizer]\nbeta1 = 0.8", "unknown option 'optimizer'"),
        ("[margin]\nx = 1", "margin is a table"),
        ("lr_step = true", "lr_step is true or false"),
        ("lr_step = [1e-4, false]", "lr_step is true or false"),
        ("steps = true", "steps is true or false"),
        ("config = 'other.toml'", "unknown option 'config'"),
        ("seeds =", "is not a TOML file"),
        ("seeds = 'many'", "study.toml: seeds cannot be 'many': "),
        ("seeds = 2.5", "study.toml: seeds cannot be 2.5: "),
        ("lr-step = [1e-4, 'x']", "study.toml: lr-step cannot be [0.0001, 'x']: "),
        ("lr-step = [[1e-4]]", "study.toml: lr-step cannot be [[0.0001]]: "),
        ("steps = [1, 2]", "study.toml: steps cannot be [1, 2]: "),
        ("out = ['here', 'there']", "study.toml: out cannot be ['here', 'there']: "),
        ("qkv_norm = [true]", "study.toml: qkv_norm cannot be [True]: "),
        ("clip_norm = 2026-11-27", "study.toml: clip_norm cannot be "),
        ("arch = 'normfomer'", "unknown architecture 'normfomer'"),
    ],
)
def test_what_is_no_option_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    result = refused(write(tmp_path / "study.toml", text))
    assert sentence in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_missing_or_unreadable_file_is_refused(tmp_path: Path) -> None:
    assert "cannot be read" in refused(tmp_path / "none.toml").stderr
    assert "no run" in refused(tmp_path / "none" / "run.json").stderr
    assert "study.json is neither a TOML file" in refused(tmp_path / "study.json").stderr
    (tmp_path / "latin.toml").write_bytes(b"corpus = 'caf\xe9'")
    assert "is not a TOML file" in refused(tmp_path / "latin.toml").stderr


RUNS = [
    OneRun(device="cpu"),
    OneRun(arch="normformer", schedule="cosine", warmup=9, steps=44, seed=3, device="cpu"),
    OneRun(
        width=128, n_layers=2, d_ff=100, qkv_norm=True, activation="geglu", dropout=0.1,
        precision="fp16-pure", master_weights=False, clip_norm=0.5, margin=3.0, window=5,
        corpus="text.txt", val_every=3, keep_going=True, probes=("grad_norms",),
    ),
    OneRun(schedule="ramp", lr_step=1e-4, precision="fp16", head_scale="heads"),
]  # fmt: skip


@pytest.mark.parametrize("index", range(len(RUNS)))
def test_a_run_is_repeated_from_its_own_document(tmp_path: Path, index: int) -> None:
    config = RUNS[index].config()
    writer = RunWriter(tmp_path / "run", config)
    writer.finish("finished")
    for path in (tmp_path / "run", tmp_path / "run" / "run.json"):
        assert parse(OneRun, "--config", str(path)).config() == config


def test_a_run_of_a_study_is_repeated_by_train(tmp_path: Path) -> None:
    config = Stability(width=[96], weight_decay=0.0).configs()[4]
    writer = RunWriter(tmp_path / "run", config)
    writer.finish("finished")
    assert parse(OneRun, "--config", str(tmp_path / "run")).config() == config


def test_a_study_takes_from_a_run_what_it_has_options_for(tmp_path: Path) -> None:
    config = Stability(size=["micro"], lr_step=[1e-4], margin=3.0).configs()[4]
    RunWriter(tmp_path / "run", config).finish("finished")
    options = parse(Stability, "--config", str(tmp_path / "run"), "--seeds", "2")
    configs = options.configs()
    assert [other.seed for other in configs] == [0, 1]
    assert configs[1] == config.replace(seed=1)


def test_another_architecture_or_size_means_what_it_always_does(tmp_path: Path) -> None:
    RunWriter(tmp_path / "run", OneRun(device="cpu").config()).finish("finished")
    options = parse(
        OneRun, "--config", str(tmp_path / "run"), "--arch", "normformer", "--size", "mini"
    )
    plain = OneRun(device="cpu", arch="normformer", size="mini").config()
    assert options.config() == plain


def test_no_field_of_a_run_is_forgotten() -> None:
    config = RUNS[2].config()
    assert OneRun.of(config).config() == config
    assert set(RunConfig.model_fields) == {
        *("arch", "size", "model", "schedule", "steps", "seed", "batch_size", "accumulation"),
        *("optimizer", "precision", "stability", "data", "record", "val_every", "val_batches"),
        *("device", "compile", "parallel", "stop_when_destabilised"),
        "variant",  # what a study calls what the others say
    }, "a new field of RunConfig needs an option, and a place in OneRun.of"


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "[" * 2000 + "]" * 2000,
        "lr = true",
        "lr = " + "9" * 400,
        "seed = " + "9" * 5000,
        "keep_going = 1",
        "lr = nan",
    ],
)
def test_a_file_with_what_no_option_takes_is_one_sentence(tmp_path: Path, text: str) -> None:
    file = tmp_path / "options.toml"
    file.write_text(text)
    result = CliRunner().invoke(app, ["train", "--config", str(file)])
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
