"""What a study takes on a Ray cluster, beside the local pool of the same machine.

    python benchmarks/cluster.py
    python benchmarks/cluster.py --rounds 4 --steps 250

A cluster of two nodes with a CPU each is started on this machine. Both engines make the same study
in turns, two runs at the same time, in every round the other way round; before that each has made
one run for every process. Other work on the machine slows both: a round's line has the load.

    wall        seconds of the study, the median over rounds
    training    of the time of two processors, the share that went into steps (the column `seconds`
                of the runs): the median
    efficiency  the pool's seconds over Ray's, in each round: the median, and the range
"""

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import gradlab
from gradlab.studies.connection import RAY_SETTINGS, connected
from gradlab.studies.stability import Stability

JOBS = 2
ENGINES = ("local", "ray")


@dataclass(frozen=True)
class Taken:
    """By a study: seconds, and the seconds of all its runs' steps."""

    wall: float
    steps: float

    @property
    def training(self) -> float:
        return self.steps / self.wall / JOBS


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", default="nano", metavar="NAME", help="of all models")
    parser.add_argument("--steps", type=int, default=300, help="of each run")
    parser.add_argument("--seeds", type=int, default=2, help="each makes two runs")
    parser.add_argument("--rounds", type=int, default=3, help="studies of each engine")
    parser.add_argument("--folder", metavar="PATH", help="where the studies lie meanwhile")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    for name, value in RAY_SETTINGS.items():  # before the first import of ray
        os.environ.setdefault(name, value)
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 80_000_000}
    nodes = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    try:
        nodes.add_node(**node)
        with connected(nodes.address), tempfile.TemporaryDirectory(dir=options.folder) as folder:
            report(rounds_of(options, Path(folder)))
    finally:
        nodes.shutdown()


def rounds_of(options: argparse.Namespace, folder: Path) -> list[dict[str, Taken]]:
    """What the study takes by each engine, a round after the other."""
    study = Stability(
        arch=["pre-ln", "normformer"],
        size=options.size,
        lr_step=[1e-6],  # which breaks nothing: all runs take all steps
        seeds=options.seeds,
        steps=options.steps,
        device="cpu",
    )
    for engine in ENGINES:
        taken(study.replace(seeds=1, steps=2), folder / f"warm-{engine}", engine)
    rounds = []
    for number in range(options.rounds):
        turns = ENGINES if number % 2 == 0 else ENGINES[::-1]
        took = {engine: taken(study, folder / f"{number}-{engine}", engine) for engine in turns}
        rounds.append(took)
        walls = "  ".join(f"{engine} {took[engine].wall:.1f} s" for engine in ENGINES)
        print(f"{walls}  load {os.getloadavg()[0]:.1f}", flush=True)
    return rounds


def taken(study: Stability, out: Path, engine: str) -> Taken:
    began = time.perf_counter()
    result = gradlab.run_study(study, out, jobs=JOBS, engine=engine)
    wall = time.perf_counter() - began
    assert not result.failed, result.failed
    return Taken(wall, sum(float(run.table("steps")["seconds"].iloc[-1]) for run in result.runs))


def report(rounds: Sequence[dict[str, Taken]]) -> None:
    for engine in ENGINES:
        wall = median(took[engine].wall for took in rounds)
        share = median(took[engine].training for took in rounds)
        print(f"{engine:5}  wall {wall:.1f} s  training {share:.2f}")
    ratios = sorted(took["local"].wall / took["ray"].wall for took in rounds)
    print(f"efficiency {median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})")


if __name__ == "__main__":
    main()
