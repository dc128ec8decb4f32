"""Loops of a stranger's, each with a step that is bad, for what is kept and done again."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

import gradlab
from gradlab.probes.attach import Probes
from gradlab.runs.reader import Run

_OF_A_RUN = ["seconds", "update", "underflow_frac"]
"""Columns that tell of the steps before as well."""

BAD = 3
STEPS = 5


class Net(nn.Module):
    """Draws random numbers and keeps statistics of its batches, so that a repetition needs both."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(4, 8), nn.BatchNorm1d(8)
        self.dropout, self.second = nn.Dropout(0.5), nn.Linear(8, 4)
        nn.init.uniform_(self.first.weight, 0.5, 1.0)

    def forward(self, x: Tensor, *, scale: float = 1.0, extra: Any = None) -> dict[str, Tensor]:
        hidden = self.dropout(self.norm(self.first(x)))
        if extra is not None:
            hidden = hidden + extra["shift"][0]
        return {"out": self.second(hidden) * scale, "hidden": hidden}


def kept_steps(folder: Path) -> list[int]:
    """Those that the index of a folder of kept steps names."""
    return [one["step"] for one in json.loads((folder / "bundle.json").read_text())["steps"]]


def fused(model: nn.Module) -> Optimizer:
    return AdamW(model.parameters(), lr=1e-2, fused=True)


def plain(model: nn.Module) -> Optimizer:
    return AdamW(model.parameters(), lr=1e-2, foreach=False)


def momentum(model: nn.Module) -> Optimizer:
    return SGD(model.parameters(), lr=1e-2, momentum=0.9)


@dataclass
class Loop:
    """A training, as a test wants it.

    Attributes:
        passes: The forward and backward passes of one step, from a batch; gives its losses.
        optimizer: Made of the model.
        fp16: Whether it is computed in FP16 with a scaler.
        make: Makes the model.
        device: Where it trains.
    """

    passes: Callable[[nn.Module, Tensor, Callable[[Tensor], Tensor]], Iterator[Tensor]]
    optimizer: Callable[[nn.Module], Optimizer] = fused
    fp16: bool = True
    make: Callable[[], nn.Module] = Net
    device: str = "cpu"

    def train(self, keep: Path | None, **options: Any) -> tuple[Probes, nn.Module]:
        """Train, with probes that keep; the probes and the model at the end."""
        torch.manual_seed(0)
        model = self.make().to(self.device)
        optimizer = self.optimizer(model)
        scaler = torch.amp.GradScaler(self.device, init_scale=64.0, enabled=self.fp16)
        options = {"every": 1, **options}
        probes = gradlab.attach(model, optimizer, scaler=scaler, keep=keep, **options)
        with probes:
            for step in range(STEPS):
                optimizer.zero_grad()
                x = torch.randn(8, 4, device=self.device)
                if step == BAD:
                    x[2] = 6e4 if self.fp16 else torch.inf
                with gradlab.emulated_fp16():
                    for loss in self.passes(model, x, scaler.scale):
                        probes.loss(loss)
                scaler.step(optimizer)
                scaler.update()
        return probes, model


def autocast(x: Tensor) -> torch.autocast:
    """FP16 where a tensor is."""
    return torch.autocast(x.device.type, torch.float16)


def mean(output: dict[str, Tensor]) -> Tensor:
    return output["out"].float().square().mean()


def rows(run: Run, table: str, step: int = BAD) -> pd.DataFrame:
    """A table's rows of a step, but for what tells of the run that it was in."""
    if table not in run.tables:
        return pd.DataFrame()
    found = run.table(table)
    found = found[found["step"] == step].drop(columns=_OF_A_RUN, errors="ignore")
    return found.reset_index(drop=True)


TABLES = ("steps", "grad_norms", "headroom", "overflows", "faults")


def assert_same_tables(
    recorded: Run, again: Run, step: int = BAD, tables: Sequence[str] = TABLES
) -> None:
    """The tables of a recorded step and of the same done again are equal to the bit."""
    compared = 0
    for table in tables:
        wanted = rows(recorded, table, step)
        pd.testing.assert_frame_equal(
            rows(again, table, step)[list(wanted)], wanted, check_dtype=False, check_exact=True
        )
        compared += len(wanted)
    assert compared > len(tables)
