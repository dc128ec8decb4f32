"""Every benchmark runs at its smallest setting, and says what its options are.

What it measures there means nothing: that it still fits the code is what is tested.
"""

import runpy
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

# Name → arguments of its smallest run, and something that it prints.
SMALLEST = {
    "checkpoints": ("--steps 3 --every 1", "checkpoints 2"),
    "cluster": ("--steps 2 --seeds 1 --rounds 1", "efficiency"),
    "digits": ("--steps 2 --precision fp16 --setting default", "fp16  default"),
    "emulation": ("--steps 1 --size nano", "nano    batch 16"),
    "gpu_cost": ("--gpu H200", "| 2.7B | H200 |"),
    "help_time": ("--steps 1", "gradlab        --help: "),
    "probe_overhead": (
        "--steps 1 --threads 1 --width 12 --rows 10 --only GradientNorms",
        "gradlab, GradientNorms",
    ),
    "read_record": ("--steps 100 --repeats 1", "figure 3: "),
    "speed": ("--steps 1 --size nano --batch-size 1 --length 8", "nn.TransformerEncoder"),
    "training_step": ("--steps 1 --size nano --precision fp16", "nano   fp16"),
}


def load(name: str) -> dict[str, Any]:
    return runpy.run_path(str(BENCHMARKS / f"{name}.py"), run_name=name)


def test_each_benchmark_is_run() -> None:
    scripts = {path.stem for path in BENCHMARKS.glob("*.py") if "__main__" in path.read_text()}
    assert scripts == set(SMALLEST)


IN_PROCESSES = ("cluster", "digits")
"""They start many, which takes its time."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.long if n in IN_PROCESSES else []) for n in SMALLEST],
)
def test_the_smallest_run(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, printed = SMALLEST[name]
    threads = torch.get_num_threads()
    try:
        load(name)["main"](shlex.split(arguments))
    finally:
        torch.set_num_threads(threads)
    assert printed in capsys.readouterr().out


@pytest.mark.parametrize("name", SMALLEST)
def test_help_says_what_each_option_is(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        load(name)["main"](["--help"])
    assert end.value.code == 0
    out = capsys.readouterr().out
    options = out.partition("options:\n")[2]
    assert options
    for option in filter(None, options.split("\n  -")):
        assert len(option.split()) > 2, f"nothing is said of {option}"


@pytest.mark.parametrize("name", SMALLEST)
def test_its_own_examples_parse(name: str) -> None:
    module = load(name)
    ways = (f"    python benchmarks/{name}.py", f"    python -m benchmarks.{name}")
    commands = [line for line in module["__doc__"].splitlines() if line.startswith("    python ")]
    assert commands
    for command in commands:
        way = next(way for way in ways if command.startswith(way))
        module["parse"](shlex.split(command.removeprefix(way)))
