"""What depth does to the states between a model's layers: collapse, branches, variance, drift."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves
from torch.utils.hooks import RemovableHandle

from gradlab.errors import GradlabError
from gradlab.probes.attention.bounds import aside
from gradlab.probes.cadence import Cadence
from gradlab.probes.engine.captured import Captured
from gradlab.probes.engine.compiled import CompiledLater, in_compiled_call
from gradlab.probes.modes import Reset
from gradlab.probes.probe import Columns, Probe, Reading, Subject
from gradlab.probes.residual_sums import ResidualSums, norm
from gradlab.probes.roles import role
from gradlab.probes.selection import Patterns, select
from gradlab.probes.sites import has_extremes, in_backward
from gradlab.probes.unseen import Unseen

_ROWS = 1024
"""Tokens that CKA is taken over at most, evenly spread over the batch."""


class HiddenStates(Probe):
    """The state that each layer is given and the one that it gives, by layer.

    A layer is a module that is one of a list, as the first number of a dotted name says
    (`blocks.3`, `transformer.h.7`, `encoder.layers.0`), and that gives a tensor of the shape that
    it is given: (B, T, d), (T, B, d) where its attention has `batch_first=False`, or (N, d).

    - `mean`, `std` of all entries of what it gives; `input_mean`, `input_std` of what it is given.
    - `cosine`: between two tokens of one sequence that it gives, the mean over pairs and sequences.
      1 is collapse: no token can be told from another.
    - `cka`: linear CKA between what it is given and what it gives, over 1024 tokens at most, evenly
      spread: ‖YᵀX‖²_F / (‖XᵀX‖_F ‖YᵀY‖_F), columns centred (Kornblith et al., 2019, eq. 4). 1: the
      layer changes nothing but rotation and size. With fewer tokens than features it is near 1 by
      itself.
    - `first_branch`, `last_branch`: ‖branch‖ / ‖skip‖ over all entries, in its first and its last
      residual sum: attention's and the FFN's, in the usual order. The skip is what is added, with
      λ_resid or DeepNorm's α in it. NaN where no sum was seen.
    - `mean_shift`, `std_shift`: how far what it is given has moved since the last recorded step,
      feature by feature: ‖μ − μ′‖ / ‖σ′‖ and ‖σ − σ′‖ / ‖σ′‖ over tokens. Batches alone move μ by
      about √(2 / tokens). NaN at the first.

    Of several passes in a step the first is looked at; passes without gradients are not. Steps off
    the cadence have no rows, events or not.

    Args:
        at: Patterns over the names of modules, instead of finding the layers.
        every: Cadence; None for that of `attach`.
    """

    table = "hidden"
    looks_inside = True

    def __init__(self, at: Patterns | None = None, *, every: Cadence | None = None) -> None:
        self.every = every
        self._patterns = at

    def open(self, subject: Subject) -> Iterable[RemovableHandle]:
        """Put hooks on the layers.

        Raises:
            GradlabError: There are none.
        """
        if self._patterns is None:
            layers = {name: m for name, m in subject.modules.items() if _is_layer(name)}
            if not layers:
                raise GradlabError(
                    "HiddenStates sees no layers in this model, as none of its modules has a "
                    "number for a name: name them, HiddenStates('encoder_*')."
                )
        else:
            layers = select(subject.modules, self._patterns, "modules")
        self._sums = ResidualSums()
        self._compiled = CompiledLater(subject.model, _COMPILED)
        self._unseen = Unseen(_UNSEEN)
        self._captured = Captured(subject.model)
        self._seen: dict[str, _Seen] = {}
        self._called = self._backward_seen = False
        self._before: dict[str, tuple[Tensor, Tensor]] = {}
        yield Reset(self._sums.leave)
        for name, layer in layers.items():
            sequence = _sequence_dim(layer)
            yield layer.register_forward_pre_hook(partial(self._enter, name), with_kwargs=True)
            yield layer.register_forward_hook(
                partial(self._leave, name, sequence), with_kwargs=True, always_call=True
            )

    def state(self) -> Mapping[str, Any]:
        """What each layer was given last, feature by feature."""
        return {name: [x.tolist() for x in both] for name, both in self._before.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self._before = {name: (_vector(mean), _vector(std)) for name, (mean, std) in state.items()}

    def begin(self, step: int) -> None:
        """Start an empty record."""
        self._sums.leave()
        self._seen = {}
        self._called = self._backward_seen = False

    def after_backward(self, changed: Mapping[str, nn.Parameter], loss_scale: Tensor) -> None:
        """A pass with gradients was there to be seen."""
        self._backward_seen = True

    def after_step(self) -> Reading | None:
        """A row for each layer that was called."""
        if self._backward_seen:
            self._compiled.look(hooks_called=self._called)
            self._unseen.look(seen=bool(self._seen) or not self._called)
        if not self._seen:
            return None
        device = next(iter(self._seen.values())).numbers.device
        numbers = torch.stack([seen.numbers.to(device) for seen in self._seen.values()])
        shifts = torch.stack([self._shift(*item).to(device) for item in self._seen.items()])
        self._before |= {name: (seen.mean, seen.std) for name, seen in self._seen.items()}
        labels: Columns = {
            "site": list(self._seen),
            "layer": [role(name)[0] for name in self._seen],
        }
        values = torch.cat([numbers, shifts], dim=1).unbind(1)
        return Reading(labels, dict(zip(_NUMBERS, values, strict=True)))

    def _shift(self, name: str, seen: "_Seen") -> Tensor:
        """(2,): of the mean and of the standard deviation."""
        if name not in self._before:
            return torch.full((2,), math.nan, dtype=seen.mean.dtype, device=seen.mean.device)
        mean, std = (x.to(seen.mean) for x in self._before[name])
        return torch.stack([norm(seen.mean - mean), norm(seen.std - std)]) / norm(std)

    def _wanted(self, name: str) -> bool:
        return (
            self.active
            and name not in self._seen
            and torch.is_grad_enabled()
            and not torch.compiler.is_compiling()
            and not in_compiled_call()
            and not self._captured.now()
        )

    def _enter(self, name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        self._sums.leave()  # of a pass that Ctrl-C broke off
        if not self._wanted(name):
            return
        self._called = True
        if (x := _state((args, kwargs))) is not None:
            self._sums.enter(x)

    def _leave(
        self, name: str, sequence: int, module: nn.Module, args: Any, kwargs: Any, output: Any
    ) -> None:
        sums = self._sums.leave()
        if not self._wanted(name):
            return
        x, y = _state((args, kwargs)), _state(output)
        if x is None or y is None or x.shape != y.shape:
            return
        with aside(x.device):
            self._seen[name] = _look(x.detach(), y.detach(), sums, sequence)
        self.saw_forward = not in_backward()


@dataclass(frozen=True)
class _Seen:
    """One layer in one pass.

    Attributes:
        numbers: As `_NUMBERS` names them, but for the shifts.
        mean: Of what it is given, by feature.
        std: Likewise.
    """

    numbers: Tensor
    mean: Tensor
    std: Tensor


_NUMBERS = (
    *("mean", "std", "input_mean", "input_std", "cosine", "cka"),
    *("first_branch", "last_branch", "mean_shift", "std_shift"),
)

_COMPILED = "no hidden states are recorded there. Attach to a model that is not compiled."

_UNSEEN = (
    "HiddenStates has seen no layer that gives a tensor of the shape that it is given, (B, T, d) "
    "or (N, d), in a pass with gradients: nothing is recorded in hidden."
)


def _is_layer(name: str) -> bool:
    """Whether a name ends with its first number."""
    *parts, last = name.split(".")
    return last.isdigit() and not any(part.isdigit() for part in parts)


def _sequence_dim(layer: nn.Module) -> int:
    """Which dimension of (B, T, d) tokens of one sequence lie along: 0 where it is (T, B, d)."""
    inside = [m for m in layer.modules() if isinstance(m, nn.MultiheadAttention)]
    return 0 if inside and not inside[0].batch_first else 1


def _state(given: Any) -> Tensor | None:
    """The first tensor of rows of features."""
    leaves = tree_leaves(given)
    return next(
        (
            x
            for x in leaves
            if isinstance(x, Tensor) and has_extremes(x) and x.dim() in (2, 3) and x.numel()
        ),
        None,
    )


def _vector(kept: list[float]) -> Tensor:
    return torch.tensor(kept, dtype=torch.float64, device="cpu")


def _look(x: Tensor, y: Tensor, sums: list[tuple[Tensor, Tensor]], sequence: int) -> _Seen:
    """A layer's numbers, of what it is given and what it gives."""
    wide = torch.promote_types(x.dtype, torch.float32)
    x, y = x.to(wide), y.to(wide)
    tokens = x.flatten(0, -2)  # (N, d)
    branches = [branch.to(x) / skip.to(x) for branch, skip in (sums[:1] + sums[-1:])]
    numbers = [
        *(y.mean(), y.std(correction=0), x.mean(), x.std(correction=0)),
        _cosine(y if y.dim() == 3 else y[None], sequence if y.dim() == 3 else 1),
        _cka(tokens, y.flatten(0, -2)),
        *(branches or [torch.full_like(tokens[0, 0], math.nan)] * 2),
    ]
    return _Seen(torch.stack(numbers), tokens.mean(0), tokens.std(0, correction=0))


def _cosine(y: Tensor, sequence: int) -> Tensor:
    """Mean over pairs of different tokens, then over sequences; NaN of single tokens.

    The sum over all pairs of unit vectors is the square of their sum's length.
    """
    unit = F.normalize(y, dim=-1)
    count = y.shape[sequence]
    own = unit.square().sum((sequence, -1))  # 1 for each token that is not 0
    pairs = unit.sum(sequence).square().sum(-1) - own
    return (pairs / (count * (count - 1) or math.nan)).mean()


def _cka(x: Tensor, y: Tensor) -> Tensor:
    """Linear CKA of (N, d) and (N, d); NaN where one is constant."""
    some = torch.arange(min(len(x), _ROWS), device=x.device) * len(x) // min(len(x), _ROWS)
    x, y = ((z - z.mean(0)) / norm(z - z.mean(0)) for z in (x[some], y[some]))
    return (norm(y.mT @ x).square()) / (norm(x.mT @ x) * norm(y.mT @ y))
