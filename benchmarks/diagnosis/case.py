"""A case: a small training that breaks as somebody's did, its source, and what broke it."""

import inspect
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from benchmarks.diagnosis.tool import Tool

Training = Callable[[Tool, bool], nn.Module]
"""Trains under a tool, healthy or not, and returns what it trained."""

CULPRIT = "# culprit"
"""Stands on the lines of a case that break it."""


@dataclass(frozen=True)
class Case:
    """One report.

    Attributes:
        title: What breaks, in a few words.
        source: Where somebody met it.
        names: Dotted names of the modules, parameters or buffers that are to blame.
        phrases: Patterns that say the cause where it is no part of the model, as the loss is none.
        train: The training; its twin, which differs only in what breaks it, is healthy.
        ranks: Processes that train together.
    """

    title: str
    source: str
    names: tuple[str, ...]
    phrases: tuple[str, ...]
    train: Training
    ranks: int

    @property
    def key(self) -> str:
        """Its function's name."""
        return self.train.__name__

    def culprit_lines(self) -> list[tuple[str, int]]:
        """File name and number of each line that is marked as the culprit."""
        lines, first = inspect.getsourcelines(self.train)
        file = Path(inspect.getfile(self.train)).name
        return [(file, first + i) for i, line in enumerate(lines) if CULPRIT in line]


CASES: dict[str, Case] = {}
"""All of them by key, in the order in which they are written."""


def case(
    title: str,
    source: str,
    *,
    names: tuple[str, ...] = (),
    phrases: tuple[str, ...] = (),
    ranks: int = 1,
) -> Callable[[Training], Training]:
    """Make a case of a training."""

    def keep(train: Training) -> Training:
        made = Case(title, source, names, phrases, train, ranks)
        assert made.key not in CASES, made.key
        CASES[made.key] = made
        return train

    return keep


def named(**modules: nn.Module) -> nn.Sequential:
    """A chain of modules with names."""
    return nn.Sequential(OrderedDict(modules))


def train(
    tool: Tool,
    model: nn.Module,
    optimizer: Optimizer,
    batches: Iterable[Any],
    loss_of: Callable[[nn.Module, Any], Tensor],
    *,
    scaler: GradScaler | None = None,
    autocast: bool = False,
    zeroed: bool = True,
) -> nn.Module:
    """The loop that most people write; `autocast` is to FP16, `zeroed` calls zero_grad."""
    with tool.watching(model, optimizer, scaler):
        for batch in batches:
            if zeroed:
                optimizer.zero_grad()
            with torch.autocast("cpu", torch.float16, enabled=autocast):
                loss = loss_of(model, batch)
            tool.loss(loss)
            if scaler is None:
                loss.backward()
                tool.gradients()
                optimizer.step()
            else:
                scaler.scale(loss).backward()
                tool.gradients()
                scaler.step(optimizer)
                scaler.update()
    return model


def squares(model: nn.Module, batch: Tensor) -> Tensor:
    """The mean square of the model's output: a loss where the loss does not matter."""
    return model(batch).float().square().mean()


def normal(*shape: int, steps: int = 4) -> list[Tensor]:
    """A normal batch a step, the same in every process."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(*shape, generator=generator) for _ in range(steps)]
