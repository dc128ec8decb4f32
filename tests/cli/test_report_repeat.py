# Options of the model are given to these classes where they are made, out of reach of mypy.
# mypy: disable-error-code="call-arg"

import json
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from gradlab.cli.main import load_command
from gradlab.config import RunConfig, ScheduleConfig
from gradlab.models.presets import model_config
from gradlab.pages.repeat import commands_for, repeat
from gradlab.runs.memory import MemoryWriter
from gradlab.runs.reader import Run
from gradlab.settings import OneRun, Settings
from gradlab.studies import Ablation, Gradients, LrSearch, Stability, Variants
from gradlab.studies.study import Study

SETTINGS: dict[str, type[Settings]] = {
    settings.command_name: settings
    for settings in (Stability, Gradients, Ablation, LrSearch, Variants, OneRun)
}


def read(command: str) -> Any:
    """A command line's settings, as the command itself reads them."""
    program, name, *words = shlex.split(command)
    assert program == "gradlab"
    params = load_command(name).make_context(name, words).params
    others = {"out", "jobs", "resume", "engine", "ray_address"}
    return SETTINGS[name](**{name: v for name, v in params.items() if name not in others})


def planned(command: str) -> list[RunConfig]:
    """The runs that a command line makes."""
    settings = read(command)
    found: list[RunConfig] = (
        [settings.config()] if isinstance(settings, OneRun) else settings.configs()
    )
    return found


def made(configs: Sequence[RunConfig]) -> list[Run]:
    """Runs of these configs that no study made."""
    return [MemoryWriter(config, {}).run() for config in configs]


@pytest.mark.parametrize(
    "options",
    [
        Stability(lr_step=[2e-4], seeds=2),
        Stability(
            arch=["post-ln", "pre-ln"],
            size=["nano", "micro-d64"],
            lr_step=[5e-5, 1e-3],
            steps=77,
            weight_decay=0.1,
            precision="fp16-pure",
            master_weights=False,
            norm="rmsnorm",
            qkv_norm=True,
            attn_out_norm=False,
            probes=["none"],
            corpus="some text.txt",
        ),
        Gradients(seeds=2, lr=3e-4, warmup=7, average=20),
        Gradients(),
        Ablation(row=["pre-ln", "minus-ffn-ln"], equal="steps", clip_norm=0.1),
        LrSearch(lr=[1e-3, 1 / 3], val_batches=3),
        Variants(variant=["base", "clip_norm=0.1,lr=0.5x"], val_every=5),
    ],
    ids=range(7),
)
def test_a_command_says_what_was_asked(options: Any) -> None:
    assert read(options.command().line) == options


@pytest.mark.parametrize(
    "options",
    [
        OneRun(),
        OneRun(arch="normformer", size="micro", lr=3e-3, warmup=10, schedule="cosine"),
        OneRun(seed=3, val_every=5, keep_going=True, dropout=0.1, probes=["scales"]),
        OneRun(width=128, attention="sdpa", precision="bf16", head_scale="output"),
        OneRun(schedule="ramp", lr_step=2e-4, precision="fp16"),
    ],
    ids=range(5),
)
def test_a_run_of_no_study_is_one_command(options: OneRun) -> None:
    config = options.config()
    (command,) = commands_for(made([config]))
    assert command is not None
    assert command.startswith("gradlab train")
    assert planned(command) == [config]


def test_a_run_that_no_options_describe_has_none() -> None:
    config = RunConfig(
        arch="mine",
        size="odd",
        model=model_config("pre-ln", "nano"),
        schedule=ScheduleConfig(lr=1e-3),
        steps=3,
    )
    assert commands_for(made([config])) == [None]
    assert commands_for([]) == []


@pytest.mark.parametrize(
    ("study", "command"),
    [
        ({"command": {"name": "lr-search", "options": {"seeds": 2}}}, "gradlab lr-search --seeds"),
        ({"command": {"name": "lr-search"}}, "gradlab train"),
        ({"command": "gradlab lr-search"}, "gradlab train"),
        ({}, "gradlab train"),
    ],
)
def test_a_run_of_a_study_is_its_studys(
    tmp_path: Path, write_run: Callable[..., Path], study: dict[str, Any], command: str
) -> None:
    from gradlab.runs.reader import load

    inside, beside = (load(write_run(tmp_path / name)) for name in ("inside", "beside"))
    (tmp_path / "study.json").write_text(json.dumps({"runs": {"inside": {}}, **study}))
    first, second = commands_for([inside, beside])
    assert str(first).startswith(command)
    assert str(second).startswith("gradlab train")
    (tmp_path / "study.json").write_text("{")
    assert commands_for([inside]) == [second]


@pytest.mark.parametrize("study", [Ablation, LrSearch, Variants])
@pytest.mark.parametrize("equal", ["time", "steps"])
def test_a_study_at_equal_time_measures_its_steps_again(
    tmp_path: Path, write_run: Callable[..., Path], equal: str, study: type[Study]
) -> None:
    from gradlab.runs.reader import load

    run = load(write_run(tmp_path / "run"))
    note = study(equal=equal).command().note()
    (tmp_path / "study.json").write_text(json.dumps({"runs": {"run": {}}, **note}))
    found = repeat({"run": run}, [str(tmp_path)])
    assert ("are measured again" in found.same) == (equal == "time")


def test_no_command_makes_a_page_of_runs_in_memory(write_run: Callable[..., Path]) -> None:
    (run,) = made([OneRun().config()])
    assert repeat({"run": run}, ["a run in memory"]).page == ""
