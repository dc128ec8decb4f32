"""A kept step done again: as it was, or in other number formats."""

import copy
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from gradlab.config import PrecisionConfig
from gradlab.crash.again import Again, Loss
from gradlab.crash.content import parameters_of
from gradlab.crash.folder import read_step
from gradlab.crash.restored import Restored
from gradlab.crash.result import ReplayedStep
from gradlab.errors import GradlabError, in_words, unknown
from gradlab.paths import as_path
from gradlab.precision.device_facts import bits_depend_on, changed_facts, device_facts
from gradlab.precision.precision import resolve
from gradlab.probes.operations.call import Arithmetic, Call
from gradlab.probes.subject import optimizers_of, subject_of

Optimizer = torch.optim.Optimizer

Formats: TypeAlias = Literal["fp32", "bf16", "fp16"]


def replay_step(
    path: str | Path,
    model: nn.Module,
    *,
    step: int | None = None,
    optimizer: Optimizer | Iterable[Optimizer] | None = None,
    loss: Loss | None = None,
    precision: Formats | None = None,
) -> ReplayedStep:
    """Do a step again that `attach` kept: its passes, and the optimizer's step if it came to that.

    The model gets the parameters and buffers that it had before the step, and is left with them.
    On the machine and torch of then, in eager mode, all is the same to the bit, but for what the
    loop itself did to gradients after the passes: they are not clipped.

    Args:
        path: Folder that `attach` was given as `keep`.
        model: Of the same architecture; its parameters are overwritten.
        step: Its number; None for the newest that was kept.
        optimizer: Of the loop, made from this model, whose state is overwritten. Needed only where
            it is not one of torch's own.
        loss: From what the model gives and what it was given (its one argument; a dict, where all
            had names; else a tuple, with a dict of these last) to the loss. None takes the
            gradients that arrived at the model's outputs.
        precision: Number formats to do it in instead: fp32, bf16 or fp16. Needs a loss.

    Raises:
        GradlabError: There is no such step, it is damaged or of another model, or cannot be done.
    """
    if precision is not None and precision not in get_args(Formats):
        raise GradlabError(unknown("precision", precision, get_args(Formats)))
    if precision is not None and loss is None:
        raise GradlabError(
            f"precision={precision!r} needs loss=: the gradients that were kept at the model's "
            "outputs are those of the formats that it had."
        )
    folder = as_path(path)
    kept = read_step(folder, step)
    inner = subject_of(model, ()).model
    try:
        again = Again.of(folder, kept.facts)
        restored = Restored(kept, inner)
        calls = restored.calls()
        scaler = restored.scaler()
    except GradlabError:
        raise
    except Exception as error:  # what is there can be anything, whatever its digest
        raise GradlabError(
            f"{folder}: what was kept is of another version of gradlab ({in_words(error)})."
        ) from error
    device = next(inner.parameters()).device
    with _trained_alike(inner, kept.facts["frozen"]):
        restored.load()
        try:
            if precision is None:
                steps = restored.optimizers([*dict.fromkeys(optimizers_of(optimizer).values())])
                run, raised = again.made(inner, calls, steps, scaler, loss)
            else:
                whole = copy.deepcopy(inner).float()
                calls = _in_formats(precision, device, calls, inner, whole)
                with resolve(PrecisionConfig(name=precision), device).arithmetic():
                    scaled = scaler if precision == "fp16" else None
                    run, raised = again.made(whole, calls, (), scaled, loss)
        finally:
            restored.load()
    elsewhere = tuple(changed_facts(again.made_on, bits_depend_on(device_facts(device))))
    return ReplayedStep(run, again.step, again.why, precision, raised, elsewhere)


def _in_formats(
    precision: Formats,
    device: torch.device,
    calls: Sequence[Call],
    model: nn.Module,
    whole: nn.Module,
) -> list[Call]:
    """The calls, to be made of a model with fp32 weights in other formats."""
    dtype = resolve(PrecisionConfig(name=precision), device).product_dtype
    casts = dtype is not torch.float32
    arithmetic = Arithmetic({device.type: (casts, dtype if casts else torch.bfloat16)}, False)
    of = dict(zip(model.modules(), whole.modules(), strict=True))

    def wide(x: Any) -> Any:
        return x.float() if isinstance(x, Tensor) and x.is_floating_point() else x

    return [
        replace(
            call,
            module=of[call.module],
            args=tree_map(wide, call.args),
            kwargs=tree_map(wide, call.kwargs),
            arithmetic=arithmetic,
        )
        for call in calls
    ]


@contextmanager
def _trained_alike(model: nn.Module, frozen: Collection[str]) -> Iterator[None]:
    """Within it, the parameters get gradients that got them then."""
    before = {x: x.requires_grad for x in model.parameters()}
    try:
        for name, x in parameters_of(model).items():
            x.requires_grad_(name not in frozen)
        yield
    finally:
        for x, needs in before.items():
            x.requires_grad_(needs)
