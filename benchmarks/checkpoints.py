"""What checkpoints cost a run: how much longer it takes, and how large one is.

    python benchmarks/checkpoints.py --steps 2000

A run in a temporary folder makes checkpoints as often as it does by default, 1 % of the time; what
their saving took is measured inside it, so that nothing else on the machine comes into the ratio:

    share   seconds that went into saving, over the run's
    one     seconds that one took, the mean
    size    bytes of the last

A run that is shorter than some seconds makes none; --every makes one every so many steps.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from gradlab.config import DataConfig, PrecisionConfig, RecordConfig, RunConfig, ScheduleConfig
from gradlab.models.presets import model_config
from gradlab.training.checkpoint import Checkpoints, found
from gradlab.training.loop import train


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    torch.set_num_threads(1)
    config = RunConfig(
        arch="normformer",
        size=options.size,
        model=model_config("normformer", options.size),
        schedule=ScheduleConfig(lr=1e-3),
        steps=options.steps,
        precision=PrecisionConfig(name=options.precision),
        data=DataConfig(),
        record=RecordConfig(checkpoint_every=options.every),
        device=options.device,
    )
    took: list[float] = []
    sizes: list[int] = []
    save = Checkpoints.save

    def timed(self: Checkpoints, step: int) -> None:
        began = time.perf_counter()
        save(self, step)
        took.append(time.perf_counter() - began)
        sizes.extend(path.stat().st_size for path in found(run)[:1])

    measured: Any = Checkpoints
    measured.save = timed
    try:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            run = Path(folder) / "run"
            seconds = float(train(config, run).table("steps")["seconds"].iloc[-1])
    finally:
        measured.save = save
    print(f"{options.size}, {options.precision}: {options.steps} steps, {seconds:.1f} s")
    print(f"checkpoints {len(took)}")
    if took:
        print(f"share {sum(took) / seconds:.2%}   one {sum(took) / len(took):.3f} s", end="   ")
        print(f"size {sizes[-1] / 1e6:.1f} MB")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=2000, help="of the run")
    parser.add_argument("--size", default="nano", help="of the model, by name")
    parser.add_argument("--precision", default="fp32", help="fp32, bf16, fp16 or fp16-pure")
    parser.add_argument("--every", type=int, help="steps between two; 1 %% of the time by default")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda where there is one")
    parser.add_argument(
        "--folder", type=Path, help="on the disk to measure; a temporary one if not"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
