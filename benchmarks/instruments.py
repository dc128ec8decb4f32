"""What watches a training in `probe_overhead`: nothing, gradlab's probes, and other tools."""

import logging
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

import gradlab
from gradlab.config import Events
from gradlab.probes import AttentionEntropy, GradientNorms, Headroom, HiddenStates, Probe

Norms = Mapping[str, float]
"""Of each parameter by name."""


class Watched(Protocol):
    """A training, as an instrument finds it."""

    model: nn.Module
    optimizer: Optimizer
    scaler: GradScaler | None


class Instrument:
    """Nothing attached: the bare step. The others override what they need."""

    norm = ""
    """The kind that `finish` returns: L1, L2 or none."""

    def __init__(self, training: Watched, folder: Path) -> None:
        self.model = training.model

    def before_step(self, loss: Tensor) -> None:
        """Between the backward pass and the optimizer's step."""

    def finish(self) -> Norms:
        """Detach; the norms of the last step, if any were taken."""
        return {}


class ItemLoop(Instrument):
    norm = "L1"

    def before_step(self, loss: Tensor) -> None:
        self.last = {
            name: parameter.grad.abs().sum().item()
            for name, parameter in self.model.named_parameters()
            if parameter.grad is not None
        }

    def finish(self) -> Norms:
        return self.last


class ForeachNorm(Instrument):
    norm = "L1"

    def before_step(self, loss: Tensor) -> None:
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        self.last = torch.stack(torch._foreach_norm(gradients, 1))

    def finish(self) -> Norms:
        names = (name for name, p in self.model.named_parameters() if p.grad is not None)
        return dict(zip(names, self.last.tolist(), strict=True))


class Gradlab(Instrument):
    norm = "L1"

    def __init__(
        self,
        training: Watched,
        folder: Path,
        *,
        probes: Callable[[], list[Probe]] | None = None,
        every: int = 1,
        events: Events = "exact",
        keep: bool = False,
    ) -> None:
        self.probes = gradlab.attach(
            training.model,
            training.optimizer,
            scaler=training.scaler,
            probes=probes() if probes else None,
            every=every,
            events=events,
            keep=folder / "crash" if keep else None,
        )

    def finish(self) -> Norms:
        table, last = self.probes.table("grad_norms"), self.probes.table("steps")["step"].max()
        self.probes.close()
        rows = table[table["step"] == last]
        return dict(zip(rows["param"], rows["grad_l1"], strict=True))


class OneProbe(Gradlab):
    """A probe alone, which has no norms of gradients."""

    norm = ""

    def finish(self) -> Norms:
        self.probes.close()
        return {}


class WandbWatch(Instrument):
    def __init__(self, training: Watched, folder: Path) -> None:
        super().__init__(training, folder)
        os.environ["WANDB_SILENT"] = "true"
        import wandb

        self.run = wandb.init(mode="offline", dir=folder, project="probe-overhead")
        self.run.watch(self.model, log="gradients", log_freq=1)

    def before_step(self, loss: Tensor) -> None:
        self.run.log({"loss": loss.item()})

    def finish(self) -> Norms:
        self.run.unwatch(self.model)
        self.run.finish()
        return {}


class UnderflowOverflow(Instrument):
    def __init__(self, training: Watched, folder: Path) -> None:
        from transformers.debug_utils import DebugUnderflowOverflow

        self.debug = DebugUnderflowOverflow(training.model)


class Trainscope(Instrument):
    norm = "L2"

    def __init__(self, training: Watched, folder: Path) -> None:
        self.folder = folder
        from trainscope import TrainScope, TrainScopeConfig

        logging.getLogger("trainscope").setLevel(logging.ERROR)
        # It would send its numbers to the W&B run of the contestant beside it.
        config = TrainScopeConfig(
            run_dir=str(folder), run_name="run", integrations={"wandb": False}
        )
        self.scope = TrainScope(training.model, training.optimizer, config=config).attach()

    def before_step(self, loss: Tensor) -> None:
        self.scope.step(loss.item())

    def finish(self) -> Norms:
        self.scope.detach()
        norms = {}
        for file in (self.folder / "run" / "layers").glob("*.arrow"):
            rows = pa.ipc.open_stream(file.read_bytes()).read_all()
            norms[file.stem] = rows["grad_l2_norm"][-1].as_py()
        return norms


def norms_only() -> list[Probe]:
    return [GradientNorms()]


def norms_and_headroom() -> list[Probe]:
    return [GradientNorms(), Headroom()]


CONTESTANTS: dict[str, Callable[[Watched, Path], Instrument]] = {
    "bare step": Instrument,
    "gradlab, GradientNorms": partial(Gradlab, probes=norms_only),
    "gradlab, with Headroom": partial(Gradlab, probes=norms_and_headroom),
    "gradlab, HiddenStates": partial(OneProbe, probes=lambda: [HiddenStates()]),
    "gradlab, AttentionEntropy": partial(OneProbe, probes=lambda: [AttentionEntropy()]),
    "gradlab, default probes": Gradlab,
    "gradlab, every=10": partial(Gradlab, every=10),
    "gradlab, 10, skipped": partial(Gradlab, every=10, events="skipped"),
    "gradlab, 10 n+h, skipped": partial(
        Gradlab, probes=norms_and_headroom, every=10, events="skipped"
    ),
    "gradlab, counting": partial(OneProbe, probes=lambda: [Headroom(count=1)]),
    "gradlab, off, skipped": partial(Gradlab, every=10**9, events="skipped"),
    "gradlab, off, kept": partial(Gradlab, every=10**9, events="skipped", keep=True),
    "gradlab, default, kept": partial(Gradlab, keep=True),
    "gradlab, off cadence": partial(Gradlab, probes=norms_and_headroom, every=10**9),
    ".item() of each L1": ItemLoop,
    "torch._foreach_norm, L1": ForeachNorm,
    "wandb.watch, offline": WandbWatch,
    "DebugUnderflowOverflow": UnderflowOverflow,
    "trainscope": Trainscope,
}
