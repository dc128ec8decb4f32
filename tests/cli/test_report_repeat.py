import json
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from gradlab.cli.command import command_of
from gradlab.cli.command_options import GradNormsOptions, StabilityOptions, TrainOptions
from gradlab.cli.loss_options import AblateOptions, LrSearchOptions, VariantsOptions
from gradlab.cli.main import app
from gradlab.cli.plan import plan_grad_norms, plan_stability, plan_train
from gradlab.cli.plan_losses import plan_ablation, plan_lr_search
from gradlab.cli.plan_variants import plan_variants
from gradlab.cli.train_line import train_line
from gradlab.config import RunConfig, ScheduleConfig
from gradlab.models.presets import model_config
from gradlab.pages.repeat import commands_for, repeat
from gradlab.runs.memory import MemoryWriter
from gradlab.runs.reader import Run

PLANS: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "run-stability": (StabilityOptions, plan_stability),
    "grad-norms": (GradNormsOptions, plan_grad_norms),
    "ablate": (AblateOptions, plan_ablation),
    "lr-search": (LrSearchOptions, plan_lr_search),
    "variants": (VariantsOptions, plan_variants),
    "train": (TrainOptions, lambda options: [plan_train(options)]),
}


def read(command: str) -> tuple[str, Any]:
    """A command line's name and options, as the command itself reads them."""
    program, name, *words = shlex.split(command)
    assert program == "gradlab"
    group: Any = get_command(app)
    return name, PLANS[name][0](**group.commands[name].make_context(name, words).params)


def planned(command: str) -> list[RunConfig]:
    """The runs that a command line makes."""
    name, options = read(command)
    found: list[RunConfig] = PLANS[name][1](options)
    return found


def made(configs: Sequence[RunConfig]) -> list[Run]:
    """Runs of these configs that no study made."""
    return [MemoryWriter(config, {}).run() for config in configs]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("run-stability", StabilityOptions(lr_step=[2e-4], seeds=2)),
        (
            "run-stability",
            StabilityOptions(
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
        ),
        ("grad-norms", GradNormsOptions(seeds=2, lr=3e-4, warmup=7, average=20)),
        ("grad-norms", GradNormsOptions()),
        ("ablate", AblateOptions(row=["pre-ln", "minus-ffn-ln"], equal="steps", clip_norm=0.1)),
        ("lr-search", LrSearchOptions(lr=[1e-3, 1 / 3], val_batches=3)),
        ("variants", VariantsOptions(variant=["base", "clip_norm=0.1,lr=0.5x"], val_every=5)),
    ],
    ids=range(7),
)
def test_a_command_says_what_was_asked(name: str, options: Any) -> None:
    assert read(command_of(name, options).line) == (name, options)


def test_where_a_study_lies_and_how_it_is_trained_is_no_part_of_it() -> None:
    options = LrSearchOptions(out=Path("here"), jobs=7, resume=True, config=Path("mine.toml"))
    assert command_of("lr-search", options).line == "gradlab lr-search"


@pytest.mark.parametrize(
    "options",
    [
        TrainOptions(),
        TrainOptions(arch="normformer", size="micro", lr=3e-3, warmup=10, schedule="cosine"),
        TrainOptions(seed=3, val_every=5, keep_going=True, dropout=0.1, probes=["scales"]),
        TrainOptions(width=128, attention="sdpa", precision="bf16", head_scale="output"),
        TrainOptions(schedule="ramp", lr_step=2e-4, precision="fp16"),
    ],
    ids=range(5),
)
def test_a_run_of_no_study_is_one_command(options: TrainOptions) -> None:
    config = plan_train(options)
    (command,) = commands_for(made([config]), train_line)
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
    assert commands_for(made([config]), train_line) == [None]
    assert commands_for([], train_line) == []


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
    first, second = commands_for([inside, beside], train_line)
    assert str(first).startswith(command)
    assert str(second).startswith("gradlab train")
    (tmp_path / "study.json").write_text("{")
    assert commands_for([inside], train_line) == [second]


@pytest.mark.parametrize("equal", ["time", "steps"])
def test_a_study_at_equal_time_measures_its_steps_again(
    tmp_path: Path, write_run: Callable[..., Path], equal: str
) -> None:
    from gradlab.runs.reader import load

    run = load(write_run(tmp_path / "run"))
    note = command_of("ablate", AblateOptions(equal=equal)).note()
    (tmp_path / "study.json").write_text(json.dumps({"runs": {"run": {}}, **note}))
    found = repeat({"run": run}, [str(tmp_path)], train_line)
    assert ("are measured again" in found.same) == (equal == "time")
