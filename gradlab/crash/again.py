"""A kept step's passes and the optimizer's step, made again under every probe."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from gradlab.errors import GradlabError
from gradlab.probes import (
    AttentionScores,
    GradientNorms,
    Headroom,
    LearnedScales,
    OptimizerHealth,
    Probe,
    StateHealth,
)
from gradlab.probes.attach import Probes, attach
from gradlab.probes.learned_scales import learned_scales
from gradlab.probes.operations.call import Call
from gradlab.probes.operations.passes import as_it_was, forward, make_again
from gradlab.probes.operations.put_back import put_back
from gradlab.probes.selection import is_compiled
from gradlab.probes.subject import subject_of
from gradlab.runs.reader import Run

Optimizer = torch.optim.Optimizer

Loss: TypeAlias = Callable[[Any, Any], Tensor]
"""From what the model gave, and what it was given, to the loss."""


@dataclass(frozen=True)
class Again:
    """What is to be done.

    Attributes:
        path: Of what was kept.
        step: Its number.
        why: It was kept.
        losses: That the loop told of.
        reached: Whether it came to the optimizer.
        stepped: The optimizers that it came to, by position; None if that is not known.
        made_on: What decides its bits.
    """

    path: Path
    step: int
    why: tuple[str, ...]
    losses: tuple[float, ...]
    reached: bool
    stepped: tuple[int, ...] | None
    made_on: Mapping[str, Any]

    @classmethod
    def of(cls, path: Path, facts: Mapping[str, Any]) -> "Again":
        """From what was kept."""
        told = {name: facts[name] for name in ("step", "reached", "made_on")}
        told["stepped"] = None if facts["stepped"] is None else tuple(facts["stepped"])
        return cls(path, why=tuple(facts["why"]), losses=tuple(facts["losses"]), **told)

    def made(
        self,
        model: nn.Module,
        calls: Sequence[Call],
        optimizers: Sequence[Optimizer],
        scaler: GradScaler | None,
        loss: Loss | None,
    ) -> tuple[Run, Exception | None]:
        """The step's record, and what the model raised if it did so then."""
        error: Exception | None = None
        try:
            with (
                attach(
                    model,
                    optimizers,
                    scaler=scaler,
                    probes=_probes(model, optimizers),
                    first_step=self.step,
                    meta={"replay of": str(self.path)},
                ) as probes,
                put_back(model),
            ):
                if loss is not None:
                    _with_loss(model, calls, loss, scaler, probes)
                else:
                    for value in self.losses:
                        probes.loss(value)
                    if not make_again(model, calls):
                        raise GradlabError(
                            f"step {self.step} of {self.path} cannot be done again: the model's "
                            "outputs are others than then, or something outside of it gets a "
                            "gradient by them."
                        )
                if self.reached:
                    _take(self.stepped, optimizers, scaler, probes)
        except Exception as raised:
            if all(call.returned for call in calls):
                raise
            error = raised
        return probes.run(), error


def _probes(model: nn.Module, optimizers: Sequence[Optimizer]) -> list[Probe]:
    """All there are, each looking as closely as it can."""
    chosen: list[Probe] = [GradientNorms(), Headroom(count=1, operations=1), StateHealth()]
    if learned_scales(subject_of(model, ())):
        chosen.append(LearnedScales(every=1))
    if not any(map(is_compiled, model.modules())):
        chosen.append(AttentionScores(exact=True))
    if optimizers:
        chosen.append(OptimizerHealth())
    return chosen


def _take(
    stepped: Sequence[int] | None,
    optimizers: Sequence[Optimizer],
    scaler: GradScaler | None,
    probes: Probes,
) -> None:
    """The step of those optimizers that took it, which the scaler may skip."""
    if not optimizers:
        probes.step()
    for index, optimizer in enumerate(optimizers):
        held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        if stepped is not None and index not in stepped:
            continue
        if all(parameter.grad is None for parameter in held):
            continue  # of which a scaler would make an error
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)


def _with_loss(
    model: nn.Module,
    calls: Sequence[Call],
    loss: Loss,
    scaler: GradScaler | None,
    probes: Probes,
) -> None:
    """The calls, each with a backward pass from its own loss."""
    for call in calls:
        with as_it_was(model, call):
            output = forward(model, call.module, call).output
            value = loss(output, _given(call))
        probes.loss(value)
        with replace(call.arithmetic, autocast={}).entered():
            (value if scaler is None else scaler.scale(value)).backward()


def _given(call: Call) -> Any:
    """What a call was given, as a loss takes it."""
    if not call.args:
        return call.kwargs
    if call.kwargs:
        return (*call.args, call.kwargs)
    return call.args[0] if len(call.args) == 1 else call.args
