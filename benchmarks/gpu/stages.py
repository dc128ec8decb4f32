"""The stages: each a few commands that anybody can run alone, the most valuable stage first."""

from dataclasses import dataclass

BYTES = "--size 125M --vocab-size 256 --max-seq-len 512 --batch-size 8"
"""The paper's smallest size on bytes: all of its blocks, and little vocabulary beside."""

TINY = "--size nano --n-layers 1 --max-seq-len 8 --batch-size 2"

FIGURE_5 = "--arch pre-ln --arch normformer --arch normformer-resscale"
FIGURE_3 = f"--arch post-ln {FIGURE_5}"


@dataclass(frozen=True)
class Stage:
    """Commands that run one after another.

    Attributes:
        name: Of the stage, and of the folder with what it leaves.
        limit: Seconds that it may take.
        commands: With OUT for its folder.
        resumes: Whether commands that were cut short go on where they stood: such a stage may
            take the time that others have left.
    """

    name: str
    limit: int
    commands: tuple[str, ...]
    resumes: bool = False


def stages(device: str, small: bool) -> tuple[Stage, ...]:
    """All of them, at the paper's smallest size or, by the same code, at a tiny one."""
    size = TINY if small else BYTES
    tiny = "--tiny" if small else ""
    overhead = (
        "--width 12 --rows 10 --steps 1 --only GradientNorms"
        if small
        else "--model 125M --steps 10 --only gradlab .item Debug"
    )
    ramp = (
        "--lr-step 1e-3 --seeds 1 --steps 3"
        if small
        else "--lr-step 5e-5 --seeds 5 --jobs 6 --every 200"
    )
    steps = (
        "--steps 6 --warmup 2 --average 2 --seeds 1"
        if small
        else "--steps 300 --precision fp16 --seeds 3 --jobs 6 --every 5"
    )
    speed = (
        "--size nano --length 8 --batch-size 2 --steps 1 --precision bf16"
        if small
        else "--size 125M 355M --length 1024 --steps 8 --precision bf16"
    )
    last = "--steps 4" if small else "--steps 300 --warmup 100 --precision fp16"
    on_cpu = "-m 'not gpu' -n 1 tests/precision/test_precision.py"
    tests = (
        on_cpu
        if device == "cpu"
        else "-m gpu -n 8 tests/training tests/precision tests/probes tests/models tests/crash"
    )
    return (
        Stage("tests", 60, (f"python -m pytest -q -p no:cacheprovider -p no:benchmark {tests}",)),
        Stage("fp16", 60, (f"python -m benchmarks.gpu.fp16 --device {device} --out OUT {tiny}",)),
        Stage(
            "overhead",
            75,
            tuple(
                f"python -m benchmarks.probe_overhead --device {device} --precision {precision} "
                + overhead
                for precision in ("bf16", "fp16")
            ),
        ),
        Stage(
            "stability",
            150,
            (
                f"gradlab run-stability {FIGURE_5} {size} {ramp} --device {device} "
                "--out OUT/study --resume",
            ),
            resumes=True,
        ),
        Stage(
            "gradients",
            90,
            (
                f"gradlab grad-norms {FIGURE_3} {size} {steps} --device {device} "
                "--out OUT/study --resume",
                f"gradlab train --arch normformer-resscale {size} {last} --probes scales "
                f"--device {device} --out OUT/scales",
            ),
            resumes=True,
        ),
        Stage("speed", 45, (f"python -m benchmarks.speed --device {device} {speed}",)),
    )
