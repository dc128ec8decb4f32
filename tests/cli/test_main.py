import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from made_up_runs import nano
from typer.testing import CliRunner

from gradlab.cli import commands
from gradlab.cli.commands import sizes as sizes_module
from gradlab.cli.main import COMMANDS, app, load_command
from gradlab.models.config import ModelConfig
from gradlab.runs.writer import RunWriter
from gradlab.settings import SWITCHES
from gradlab.studies import Stability

HEAVY = ("torch", "pandas", "matplotlib", "numpy", "pyarrow")

HELP = [
    ["--help"],
    ["--version"],
    ["run-stability", "--help"],
    *(
        [name, "-h"]
        for name in ("grad-norms", "ablate", "lr-search", "train", "inspect", "figures")
    ),
]

# One process for all of them: what the first imported, the last has not imported either.
IMPORTED = """
import sys
from gradlab.cli.start import run
for arguments in {each!r}:
    sys.argv = ["gradlab", *arguments]
    try:
        run()
    except SystemExit as end:
        assert not end.code, (arguments, end.code)
    assert not {heavy!r} & sys.modules.keys(), (arguments, {heavy!r} & sys.modules.keys())
    print("=====")
"""


def invoke(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.stdout, result.stderr


def test_help_imports_nothing_heavy() -> None:
    code = IMPORTED.format(each=HELP, heavy=set(HEAVY))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    *said, after = done.stdout.split("=====\n")
    assert (len(said), after) == (len(HELP), "")
    assert all(said)


def test_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "gradlab.cli", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"gradlab {version('gradlab-diagnostics')}\n"


@pytest.mark.parametrize(
    "command",
    [
        *("run-stability", "grad-norms", "ablate", "lr-search", "train"),
        *("inspect", "figures", "sizes"),
    ],
)
def test_every_command_has_help_with_examples(command: str) -> None:
    code, out, _ = invoke(command, "--help")
    assert code == 0
    assert f"gradlab {command} --" in out
    assert "Examples" in out


def test_the_list_of_commands_is_what_there_is() -> None:
    files = {path.stem for path in Path(commands.__file__).parent.glob("[a-z]*.py")}
    assert files == {name.replace("-", "_") for name in COMMANDS}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_a_screen_and_help_all_has_every_option(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    # The runner for tests would have lines of 80, a terminal of 80 columns has two fewer.
    app([command, "--help"], prog_name="gradlab", standalone_mode=False)
    short = capsys.readouterr().out
    lines = short.splitlines()
    assert len(lines) <= 50
    assert max(map(len, lines)) <= 80
    options = {name for param in load_command(command).params for name in param.opts}
    full = invoke(command, "--help-all" if "--help-all" in short else "--help")[1]
    listed = {word.rstrip(",") for line in full.splitlines() for word in line.split()[:2]}
    flags = {name for name in options if name.startswith("--")}
    assert flags - listed - {flag.split("/")[0] for flag in flags if f"{flag} / " in full} == set()


def test_what_people_look_for_in_a_group_is_in_the_short_help() -> None:
    short = invoke("train", "--help")[1]
    for option in ("--keep-weights", "--objective", "--events", "--checkpoint-every"):
        assert option in short


def test_options_are_what_the_configs_say() -> None:
    """Name, default and help of each option are its field's, whatever command has it."""
    params = {param.name: param for param in load_command("run-stability").params}
    for name, field in Stability.model_fields.items():
        if name != "model":
            assert params[name].help == " ".join((field.description or "").split()), name
            default = params[name].default
            assert (tuple(default) if isinstance(default, list) else default) == field.default, name
            assert field.description, f"nothing is said of {name}"
    for name in SWITCHES:
        assert params[name].default is None
        assert params[name].help == " ".join(ModelConfig.model_fields[name].description.split())


def test_a_mistake_is_one_sentence_and_status_2() -> None:
    command = [sys.executable, "-m", "gradlab.cli", "sizes", "--arch", "normfomer"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: unknown architecture 'normfomer': did you mean")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["run-stabilty"], "run-stability"),
        (["sizes", "--archs", "pre-ln"], "--archs"),
        (["run-stability", "--seeds", "many"], "'--seeds'"),
        (["figures"], "'RUN'"),
    ],
)
def test_wrong_usage_is_one_sentence_too(arguments: list[str], sentence: str) -> None:
    code, out, err = invoke(*arguments)
    assert code == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert sentence in err
    assert out == ""


def test_without_arguments_the_help_is_shown() -> None:
    _, out, err = invoke()
    assert "run-stability" in out + err


def test_ctrl_c_is_status_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sizes_module, "size_configs", interrupted)
    code, _, err = invoke("sizes")
    assert code == 130
    assert err == "interrupted.\n"


@pytest.mark.parametrize(
    ("typed", "proposed"),
    [
        ("inspect study", "inspect RUN"),
        ("inspect --top 3 study/run.json", "inspect --top 3 RUN"),
        ("export ./study --to fairseq --out study", "export RUN --to fairseq --out study"),
        ("replay --from 3 study", "replay --from 3 RUN"),
        ("train --config study --out new", "train --config RUN --out new"),
        ("train --out study --config=study/", "train --out study --config=RUN"),
    ],
)
def test_what_was_typed_is_proposed_with_a_run_in_the_place_of_its_study(
    typed: str, proposed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        RunWriter(Path("study", name), nano(), {}).finish("finished")
    code, _, err = invoke(*typed.split())
    error, *lines = err.splitlines()
    assert code == 2
    assert "study is not one run but holds 2" in error
    assert lines == [f"Next: gradlab {proposed}".replace("RUN", f"study/{n}") for n in ("a", "b")]


def test_our_own_bugs_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(sizes_module, "size_configs", broken)
    result = CliRunner().invoke(app, ["sizes"])
    assert isinstance(result.exception, ZeroDivisionError)


@pytest.mark.parametrize(
    "words",
    [("export", "r"), ("figures", "r"), ("report", "r"), ("blocks",), ("replay", "r", "--explain")],
)
def test_what_one_process_writes_is_refused_to_several(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for rank, lines in (("0", 1), ("1", 0)):
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("RANK", rank)
        code, out, err = invoke(*words)
        assert (code, out, err.count("\n")) == (2, "", lines)
        assert not lines or "cannot be made by the 2 processes" in err
    assert not list(tmp_path.iterdir())
