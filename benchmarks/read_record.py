"""How long figure 3's table takes from the record of a long run, and how much memory.

    python benchmarks/read_record.py

Makes the record of a run of 125M's shape: every parameter of a 12-layer model, 100,000 steps, a
look at every tenth, over 2 million rows in Parquet parts as the loop writes them, one every 50
steps. Then reads it in a new process and averages the first and the last 50 steps by layer, and,
for comparison, reads the whole table. The limits of the former are 5 seconds and 2 GiB on 2 cores.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gradlab.config import RecordConfig, RunConfig, ScheduleConfig
from gradlab.models.build import build_model
from gradlab.models.presets import model_config
from gradlab.probes.roles import role
from gradlab.runs.verdict import Verdict
from gradlab.runs.writer import RunWriter

READ = """
import json, resource, sys, time
import pandas, pyarrow.parquet
began = time.perf_counter()
import gradlab
from gradlab.analyses.gradient_study import study_gradients
run = gradlab.load(sys.argv[1])
table = study_gradients([run])
seconds = time.perf_counter() - began
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
began = time.perf_counter()
run.table("grad_norms")
whole = time.perf_counter() - began
print(json.dumps({"seconds": seconds, "peak": peak, "whole": whole}))
"""


def make_record(folder: Path, steps: int, every: int, window: int) -> int:
    """Write the record; its number of rows."""
    config = RunConfig(
        arch="normformer",
        size="125M",
        model=model_config("normformer", "125M"),
        schedule=ScheduleConfig(kind="constant", lr=1e-3),
        steps=steps,
        record=RecordConfig(probes=("grad_norms",), every=every, window=window),
    )
    model = build_model(config.model, device="meta")
    names = [name for name, _ in model.named_parameters()]
    sizes = [parameter.numel() for parameter in model.parameters()]
    layers, ops = zip(*(role(name) for name in names), strict=True)
    writer = RunWriter(folder, config, {"corpus": {"name": "none", "sha256": ""}})
    random = np.random.default_rng(0)
    for start in range(0, steps, window):
        looks = [step for step in range(start, min(start + window, steps)) if step % every == 0]
        count = len(looks) * len(names)
        norms = random.lognormal(size=(3, count))
        writer.write(
            "grad_norms",
            {
                "step": np.repeat(looks, len(names)).tolist(),
                "param": names * len(looks),
                "layer": layers * len(looks),
                "op": ops * len(looks),
                "numel": sizes * len(looks),
                "grad_l1": norms[0],
                "grad_l2": norms[1],
                "grad_max_abs": norms[2],
                "nonfinite": [0] * count,
            },
        )
    writer.finish("finished", Verdict(reason="completed", step=steps - 1))
    return len(names) * len(range(0, steps, every))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=100_000, help="of the run")
    parser.add_argument("--every", type=int, default=10, help="steps between two looks")
    parser.add_argument("--window", type=int, default=50, help="steps in a part")
    parser.add_argument("--repeats", type=int, default=3, help="times that it is read")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        rows = make_record(run, options.steps, options.every, options.window)
        parts = list(run.glob("grad_norms/*.parquet"))
        size = sum(part.stat().st_size for part in parts) / 2**20
        print(f"{rows:,} rows in {len(parts):,} parts, {size:.0f} MiB")
        for _ in range(options.repeats):
            done = subprocess.run(
                [sys.executable, "-c", READ, str(run)], stdout=subprocess.PIPE, check=True
            )
            found = json.loads(done.stdout)
            print(
                f"figure 3: {found['seconds']:.2f} s, {found['peak']:.2f} GiB at the peak; "
                f"the whole table: {found['whole']:.2f} s"
            )


if __name__ == "__main__":
    main()
