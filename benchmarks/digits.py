"""How far digits repeat: a digest of a run's losses for each setting of the kernels it is made of.

    python benchmarks/digits.py

A nano Pre-LN is trained for 200 steps on one thread, in a new process for each setting, on a text
that is made here, so that neither Python's library nor a download has a part in it. Two machines
agree where the digests are equal. `parts at` is the first step whose loss is not the default's,
`by` the largest relative difference in the loss until the end; `ms` is processor time a step.

Torch's own kernels obey ATEN_CPU_CAPABILITY, oneDNN's ONEDNN_MAX_CPU_ISA, and MKL's, which
multiply fp32 matrices, MKL_CBWR (its values but COMPATIBLE on Intel's processors alone).
"""

import argparse
import hashlib
import json
import os
import platform
import random
import struct
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
PLAIN = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"}
SETTINGS: dict[str, dict[str, str]] = {
    "default": {},
    "avx2": AVX2,
    "avx2, MKL avx2": {**AVX2, "MKL_CBWR": "AVX2"},
    "avx2, MKL compatible": {**AVX2, "MKL_CBWR": "COMPATIBLE"},
    "plain": PLAIN,
    "plain, MKL compatible": {**PLAIN, "MKL_CBWR": "COMPATIBLE"},
    "MKL compatible": {"MKL_CBWR": "COMPATIBLE"},
}
READ_BY_TORCH = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_CBWR")

TRAIN = """
import json, sys, time
from gradlab.config import DataConfig, PrecisionConfig, RecordConfig, RunConfig, ScheduleConfig
from gradlab.models.presets import model_config
from gradlab.training.loop import train
precision, steps, corpus = sys.argv[1:]
config = RunConfig(
    arch="pre-ln", size="nano", model=model_config("pre-ln", "nano"), device="cpu",
    schedule=ScheduleConfig(lr=1e-3), precision=PrecisionConfig(name=precision), steps=int(steps),
    data=DataConfig(corpus=corpus), record=RecordConfig(probes=()),
)
began = time.process_time()
losses = train(config).table("steps")["loss"].tolist()
print(json.dumps([losses, time.process_time() - began]))
"""


def text() -> str:
    """100,000 words of one to eight letters, drawn by one generator everywhere."""
    draw = random.Random(0).random
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    vocabulary = [
        "".join(letters[int(26 * draw() ** 2)] for _ in range(1 + int(8 * draw())))
        for _ in range(2000)
    ]
    return " ".join(vocabulary[int(2000 * draw() ** 2)] for _ in range(100_000))


def train(
    setting: dict[str, str], precision: str, steps: int, corpus: Path
) -> tuple[list[float], float]:
    """The losses, and seconds of processor time."""
    inherited = {name: value for name, value in os.environ.items() if name not in READ_BY_TORCH}
    done = subprocess.run(
        [sys.executable, "-c", TRAIN, precision, str(steps), str(corpus)],
        env={**inherited, "OMP_NUM_THREADS": "1", **setting},
        stdout=subprocess.PIPE,
        check=True,
    )
    losses, seconds = json.loads(done.stdout)
    return losses, seconds


def digest(losses: Sequence[float]) -> str:
    return hashlib.sha256(struct.pack(f"<{len(losses)}d", *losses)).hexdigest()[:12]


def processor() -> str:
    """Its name, as Linux has it, or else its kind."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    kind = names[0] if names else platform.processor() or platform.machine()
    return f"{kind}, {torch.backends.cpu.get_cpu_capability()}"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=200, help="of each run")
    parser.add_argument("--precision", nargs="+", default=["fp32", "fp16"], help="of the runs")
    parser.add_argument(
        "--setting", nargs="+", choices=SETTINGS, default=list(SETTINGS), help="which are run"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    print(f"{processor()}, torch {torch.__version__}, {options.steps} steps")
    print(f"{'':6}{'setting':24}{'digest':14}{'last loss':>10}{'parts at':>10}{'by':>9}{'ms':>7}")
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "words.txt"
        corpus.write_text(text())
        for precision in options.precision:
            first = None
            for name in options.setting:
                losses, seconds = train(SETTINGS[name], precision, options.steps, corpus)
                first = first or losses
                pairs = list(zip(losses, first, strict=True))
                parted = next((step for step, (a, b) in enumerate(pairs) if a != b), None)
                by = max(abs(a / b - 1) for a, b in pairs)
                print(
                    f"{precision:6}{name:24}{digest(losses):14}{losses[-1]:10.5f}"
                    f"{'–' if parted is None else parted:>10}{by:9.1e}"
                    f"{1000 * seconds / options.steps:7.1f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
