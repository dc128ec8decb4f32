"""The runs that a forecast is tried on, breaking or steady.

A loop of its own with `gradlab.attach`, as probes of one's own have no place in the built-in one:
`Kurtosis` and `UpdateNorm` are here for comparison alone.
"""

import json
import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

import gradlab
from gradlab.config import DataConfig, PrecisionConfig, RunConfig, ScheduleConfig
from gradlab.data.corpus import Corpus, load_corpus
from gradlab.data.entropy import unigram_entropy
from gradlab.models.presets import model_config
from gradlab.probes import Headroom
from gradlab.probes.probe import Probe, Reading, Subject
from gradlab.training.device import repeatable
from gradlab.training.loop import step_batches
from gradlab.training.stability import StabilityMonitor
from gradlab.training.step import StepResult, make_learner, training_step

ARCHITECTURES = ("pre-ln", "post-ln", "normformer")

RECORD = "record.json"
"""A run's verdict, losses and gradient norms; written last."""

EVERY = 10
"""Steps between two looks, as the built-in loop has it by default."""

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Kind:
    """A kind of run: its schedule and its steps."""

    name: str
    schedule: ScheduleConfig
    steps: int


def kinds(seed: int, *, quick: bool = False) -> tuple[Kind, Kind]:
    """A ramp, which breaks, and a constant rate at which runs last: high for odd seeds."""
    rate = 5e-2 if seed % 2 else 1e-2
    rise, most, steady = (4e-2, 80, 60) if quick else (4e-4, 1500, 300)
    return (
        Kind("ramp", ScheduleConfig(kind="ramp", lr_step=rise), most),
        Kind(f"steady-{rate}", ScheduleConfig(lr=rate, warmup_steps=steady // 3), steady),
    )


def config_of(arch: str, kind: Kind, seed: int, *, quick: bool = False) -> RunConfig:
    """A run in emulated FP16, with the defaults of the stability test."""
    size, layers = ("nano-d16", 1) if quick else ("nano", 3)
    return RunConfig(
        arch=arch,
        size=size,
        model=model_config(arch, size, n_layers=layers),
        schedule=kind.schedule,
        steps=kind.steps,
        seed=seed,
        precision=PrecisionConfig(name="fp16"),
        device="cpu",
    )


class Kurtosis(Probe):
    """Kurtosis of each block's output, over all its entries: 3 for a normal distribution."""

    table = "kurtosis"
    columns: Mapping[str, type] = {"site": str, "kurtosis": float}
    looks_inside = True

    def open(self, subject: Subject) -> Iterable[RemovableHandle]:
        """Put hooks on the blocks."""
        self._seen: dict[str, Tensor] = {}
        for name, module in subject.modules.items():
            if name.startswith("blocks.") and name.count(".") == 1:
                yield module.register_forward_hook(self._hook(name))

    def begin(self, step: int) -> None:
        """Start an empty record."""
        self._seen = {}

    def after_step(self) -> Reading | None:
        """A row a block."""
        if not self._seen:
            return None
        return Reading(
            {"site": list(self._seen)}, {"kurtosis": torch.stack([*self._seen.values()])}
        )

    def _hook(self, name: str) -> Any:
        def see(_module: nn.Module, _args: Any, output: Tensor) -> None:
            if self.active:
                x = output.detach().float()
                squares = (x - x.mean()).square()
                self._seen[name] = squares.square().mean() / squares.mean().square()

        return see


class UpdateNorm(Probe):
    """L2 norm of what a step added to all parameters together."""

    table = "updates"
    columns: Mapping[str, type] = {"norm": float}

    def open(self, subject: Subject) -> Iterable[RemovableHandle]:
        """Take what the optimizer holds."""
        self._trained = [*subject.trained.values()]
        return ()

    def before_step(self) -> None:
        """Keep the parameters."""
        self._before = [x.detach().clone() for x in self._trained]

    def after_step(self) -> Reading | None:
        """Their change."""
        changes = torch._foreach_sub([x.detach() for x in self._trained], self._before)
        norm = torch.stack(torch._foreach_norm(changes)).norm()
        return Reading({}, {"norm": norm.reshape(1)})


def record(config: RunConfig, corpus: Corpus, folder: Path) -> None:
    """Train until the run breaks or has made its steps."""
    monitor = StabilityMonitor(config.stability, unigram_entropy(corpus.train))
    with repeatable(CPU, config.seed):
        learner = make_learner(config, CPU)
        probes = gradlab.attach(
            learner.model,
            learner.optimizer,
            scaler=learner.scaler,
            probes=[Headroom(count=1000), UpdateNorm(), Kurtosis()],
            out=folder,
            meta={"arch": config.arch, "seed": config.seed},
            every=EVERY,
            events="sampled",
        )
        losses, norms = [], []
        with probes:

            def note(result: StepResult) -> None:
                probes.loss(result.loss)

            for step in range(config.steps):
                scale = learner.scaler.get_scale()
                batches = step_batches(config, corpus, CPU, step)
                lr = config.lr(step)
                result = training_step(learner, batches, lr, note=note)
                losses.append(float(result.loss))
                norms.append(float(result.grad_norm))
                if monitor.observe(step, lr, losses[-1], scale, math.isfinite(norms[-1])):
                    break
        verdict = monitor.verdict(otherwise="completed", step=config.steps - 1, lr=lr)
    told = {"verdict": verdict.model_dump(), "loss": losses, "grad_norm": norms}
    (folder / RECORD).write_text(json.dumps(told))


def record_all(folder: Path, seeds: Sequence[int], *, quick: bool = False) -> None:
    """Record what is not there yet, seed by seed."""
    torch.set_num_threads(1)
    corpus = load_corpus(DataConfig(), seq_len=64, vocab_size=256)
    for seed, arch in product(seeds, ARCHITECTURES[: 1 if quick else None]):
        for kind in kinds(seed, quick=quick):
            out = folder / f"{arch}_{kind.name}_s{seed}"
            if (out / RECORD).exists():
                continue
            shutil.rmtree(out, ignore_errors=True)  # of a recording that was stopped
            record(config_of(arch, kind, seed, quick=quick), corpus, out)
            print(out.name, flush=True)
