import shlex
from collections.abc import Callable
from typing import Any

import pytest
from typer.main import get_command

from gradlab.cli.command_options import GradNormsOptions, StabilityOptions, TrainOptions
from gradlab.cli.main import app
from gradlab.cli.plan import plan_grad_norms, plan_stability, plan_train
from gradlab.cli.report_repeat import commands_for
from gradlab.config import RunConfig, ScheduleConfig
from gradlab.models.presets import model_config

PLANS: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "run-stability": (StabilityOptions, plan_stability),
    "grad-norms": (GradNormsOptions, plan_grad_norms),
    "train": (TrainOptions, lambda options: [plan_train(options)]),
}


def planned(command: str) -> list[RunConfig]:
    """The runs that a command line makes, as the command itself reads it."""
    program, name, *words = shlex.split(command)
    assert program == "gradlab"
    group: Any = get_command(app)
    options, plan = PLANS[name]
    found: list[RunConfig] = plan(options(**group.commands[name].make_context(name, words).params))
    return found


STUDIES = [
    plan_stability(StabilityOptions(lr_step=[2e-4], seeds=2)),
    plan_stability(
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
        )
    ),
    plan_grad_norms(GradNormsOptions(seeds=2, lr=3e-4, warmup=7)),
    plan_grad_norms(
        GradNormsOptions(arch=["pre-ln"], size="nano", steps=300, every=2, clip_norm=0.1)
    ),
]


@pytest.mark.parametrize("configs", STUDIES, ids=range(len(STUDIES)))
def test_a_study_is_one_command_that_plans_the_same_runs(configs: list[RunConfig]) -> None:
    (command,) = commands_for(configs)
    assert planned(command) == configs


@pytest.mark.parametrize(
    "options",
    [
        TrainOptions(),
        TrainOptions(arch="normformer", size="micro", lr=3e-3, warmup=10, schedule="cosine"),
        TrainOptions(seed=3, val_every=5, keep_going=True, dropout=0.1, probes=["scales"]),
        TrainOptions(width=128, attention="sdpa", precision="bf16", head_scale="output"),
    ],
    ids=range(4),
)
def test_a_run_is_one_command(options: TrainOptions) -> None:
    config = plan_train(options)
    (command,) = commands_for([config, config])
    assert command.startswith("gradlab train")
    assert planned(command) == [config]


def test_some_runs_of_a_study_are_the_studys_command() -> None:
    configs = STUDIES[0]
    (command,) = commands_for(configs[3:5])
    assert set(configs[3:5]) < set(planned(command))


def test_runs_that_are_no_study_have_a_command_each() -> None:
    configs = [
        plan_train(TrainOptions(lr=1e-3, seed=1)),
        plan_train(TrainOptions(lr=2e-3, arch="normformer")),
    ]
    assert [planned(command) for command in commands_for(configs)] == [[c] for c in configs]


def test_a_run_that_no_options_describe_has_none() -> None:
    config = RunConfig(
        arch="mine",
        size="odd",
        model=model_config("pre-ln", "nano"),
        schedule=ScheduleConfig(lr=1e-3),
        steps=3,
    )
    assert commands_for([config]) == []
    assert commands_for([]) == []
