"""The largest attention scores of every layer and head: where FP16 overflows first."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._functorch import peek_interpreter_stack
from torch.utils.hooks import RemovableHandle

from gradlab.fp16 import FP16_MAX
from gradlab.models.attention import Scores, Softmax
from gradlab.probes.attention.bounds import (
    FusedCall,
    Largest,
    aside,
    causal,
    exact,
    largest,
    lower_bound,
    unmasked,
    upper_bound,
)
from gradlab.probes.attention.calls import AttentionCalls, Caller
from gradlab.probes.cadence import Cadence
from gradlab.probes.engine.captured import Captured
from gradlab.probes.engine.compiled import CompiledLater
from gradlab.probes.probe import Columns, Probe, Reading, Step, Subject
from gradlab.probes.roles import role
from gradlab.probes.selection import Patterns, select
from gradlab.probes.sites import in_backward

NEAR_LIMIT = FP16_MAX / 4
"""Where an upper bound reaches this, it is worth knowing the score itself."""


class AttentionScores(Probe):
    """The largest score q·k (scaled, over visible pairs) by layer and head: max and max |x|.

    `bound` says how far a row can be trusted:

    - `exact`: where the scores are a tensor. In gradlab's own models they are seen before the
      mask; in any other as they go into the softmax, with the biases that were added to them.
      What is half its dtype's minimum or less, or was filled in with −10⁴ or less, is masked.
    - `upper` and `lower`, where `scaled_dot_product_attention` hides them: max‖q‖ · max‖k‖, and
      the scores of queries with the key at their own place. Both always hold; without a pair that
      is certainly visible there is no `lower`. Biases in a mask are not counted.
    - `exact` beside these, computed aside in fp32, once the upper bound has come within a factor
      of 4 of FP16's largest number in the last window copied from the device.

    Losses and weights stay the same to the bit: the model's way of computing attention is left as
    it is. Passes without gradients are not looked at; what checkpointing computes again is
    recorded once. Kernels that are called by other ways (FlexAttention, flash-attn's own package)
    and compiled models cannot be seen into: no rows.

    A site is the innermost module that was being executed; the model itself goes by its class's
    name. `head` is null where the heads cannot be told apart: the row is of all of them.

    Args:
        at: Patterns over the names of modules.
        every: Cadence; None for that of `attach`.
        exact: Compute every fused attention's scores aside, and no bounds.
    """

    table = "scores"
    exact = True
    looks_inside = True

    def __init__(
        self, at: Patterns = "*", *, every: Cadence | None = None, exact: bool = False
    ) -> None:
        self.every = every
        self._patterns = at
        self._always_exact = exact

    def open(self, subject: Subject) -> Iterable[RemovableHandle]:
        """Put hooks on the modules."""
        named = {type(subject.model).__name__: subject.model, **subject.modules}
        chosen = select(named, self._patterns, "modules")
        self._sites = {module: name for name, module in chosen.items()}
        self._compiled = CompiledLater(subject.model, _COMPILED)
        self._forward_seen = self._backward_seen = False
        self._near: set[str] = set()
        self._window_ended = False
        self._pass_ended = False
        self._passed: set[str] = set()
        self._seen: dict[tuple[str, str, bool, int], Largest] = {}
        self._captured = Captured(subject.model)
        self._calls = AttentionCalls(
            subject.model, self._looking, self._wanted, self._on_scores, self._on_fused
        )
        self._clear()
        yield from self._calls.install()
        for module in self._sites:
            if isinstance(module, Scores):
                yield module.register_forward_hook(self._on_own_scores)

    def state(self) -> Mapping[str, Any]:
        """The sites that are near the limit."""
        return {"near": sorted(self._near)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Know them again."""
        self._near = set(state["near"])

    def begin(self, step: int) -> None:
        """Start an empty record."""
        self._clear()

    def after_backward(self, changed: Mapping[str, nn.Parameter], loss_scale: Tensor) -> None:
        """The next forward pass is another one."""
        self._pass_ended = self._backward_seen = True

    def after_step(self) -> Reading | None:
        """A row for each site, head and kind of bound."""
        seen = self._seen
        self._calls.reset()
        if self._backward_seen:
            self._compiled.look(hooks_called=self._forward_seen)
        if not seen:
            return None
        self._window_ended = True
        labels = [
            (site, head if by_head else None, bound)
            for site, bound, by_head, count in seen
            for head in range(count)
        ]
        return Reading(
            dict(zip(("site", "head", "bound"), zip(*labels, strict=True), strict=True)),
            {
                "max": _joined([found.high for found in seen.values()]),
                "max_abs": _joined([found.max_abs for found in seen.values()]),
            },
        )

    def joined(self, readings: Sequence[Columns]) -> Columns:
        """The largest of all processes; exact where no process's bound leaves room for a larger."""
        found: list[dict[_Row, tuple[float, float]]] = [{} for _ in readings]
        whole: dict[_Row, tuple[float, float]] = {}
        for part, reading in zip(found, readings, strict=True):
            for site, head, bound, *numbers in zip(*(reading[n] for n in _READ), strict=True):
                for rows_of in (part, whole):
                    before = rows_of.get((site, head, bound), (-math.inf, -math.inf))
                    high, max_abs = map(_larger, before, numbers)
                    rows_of[site, head, bound] = high, max_abs
        rows = []
        for (site, head, bound), (high, max_abs) in whole.items():
            without = [part for part in found if (site, head, bound) not in part]
            bounds = [part.get((site, head, "upper"), (-math.inf, -math.inf)) for part in without]
            is_largest = math.isnan(high) or all(high >= upper for _, upper in bounds)
            if bound != "exact" or is_largest:
                rows.append((site, head, bound, high, max_abs))
        return dict(zip(_READ, zip(*rows, strict=True), strict=True))

    def rows(self, step: Step, columns: Columns) -> Mapping[str, Columns]:
        """Leave out what was hidden; see which sites are near the limit."""
        if self._window_ended:
            self._window_ended = False
            self._near.clear()
        rows = []
        for site, head, bound, high, max_abs in zip(*(columns[n] for n in _READ), strict=True):
            if bound == "upper" and not max_abs < NEAR_LIMIT:
                self._near.add(site)
            if max_abs != -math.inf:
                magnitude = max(max_abs, 0.0) if bound == "lower" else max_abs
                rows.append((step.step, site, role(site)[0], head, high, magnitude, bound))
        if not rows:
            return {}
        return {self.table: dict(zip(_COLUMNS, zip(*rows, strict=True), strict=True))}

    def _clear(self) -> None:
        self._passed.clear()
        self._seen.clear()
        self._forward_seen = self._backward_seen = False
        self._exact_now: frozenset[str] | None = None

    def _looking(self) -> bool:
        self._forward_seen = True
        if self._pass_ended and not in_backward():
            self._pass_ended = False
            self._passed.clear()
        return self.active

    def _wanted(self, module: nn.Module) -> bool:
        site = self._sites.get(module)
        recomputed = in_backward() and site in self._passed
        # What torch.func's transforms compute with must not leave them.
        transformed = peek_interpreter_stack() is not None
        wanted = self.active and site is not None and not recomputed and not transformed
        return wanted and not self._captured.now()

    def _on_own_scores(self, module: Scores, args: Any, output: Tensor) -> None:
        if torch.compiler.is_compiling() or not torch.is_grad_enabled():
            return
        if self._wanted(module) and output.numel():
            with aside(output.device):
                found = (causal if module.causal else largest)(output.detach())
                self._note(Caller(module, None), "exact", found)

    def _on_scores(self, caller: Caller, scores: Tensor, masked: float) -> None:
        if not isinstance(caller.module, Softmax):  # seen already, before the mask
            self._note(caller, "exact", unmasked(scores, masked))

    def _on_fused(self, caller: Caller, call: FusedCall) -> None:
        site = self._sites[caller.module]
        if self._exact_now is None:  # for the whole step: an exact row leaves no pass of it out
            self._exact_now = frozenset(self._near)
        if self._always_exact or site in self._exact_now:
            self._note(caller, "exact", exact(call))
        if not self._always_exact:
            upper = upper_bound(call)
            self._note(caller, "upper", Largest(upper, upper))
            if (lower := lower_bound(call, upper)) is not None:
                self._note(caller, "lower", lower)

    def _note(self, caller: Caller, bound: str, found: Largest) -> None:
        site = self._sites[caller.module]
        self.saw_forward = True
        self._passed.add(site)
        parts, by_head = caller.by_head(torch.stack([found.high, found.max_abs], dim=-1))
        high, max_abs = parts.amax(0).unbind(-1)
        key = (site, bound, by_head, high.numel())
        if (before := self._seen.get(key)) is not None:
            device = before.high.device
            high = torch.maximum(before.high, high.to(device))
            max_abs = torch.maximum(before.max_abs, max_abs.to(device))
        self._seen[key] = Largest(high, max_abs)


_COMPILED = (
    "no attention scores are recorded there. Attach AttentionScores to a model that is not "
    "compiled."
)

_Row = tuple[str, int | None, str]
"""Site, head and bound."""

_READ = ("site", "head", "bound", "max", "max_abs")
_COLUMNS = ("step", "site", "layer", "head", "max", "max_abs", "bound")


def _larger(one: float, other: float) -> float:
    """The larger of two, NaN above all."""
    return one if math.isnan(one) or one >= other else other


def _joined(tensors: list[Tensor]) -> Tensor:
    device = tensors[0].device
    for x in tensors:
        if x.is_cuda:  # a forward pass on another stream would take its memory back at once
            x.record_stream(torch.cuda.current_stream(x.device))
    return torch.cat([x if x.device == device else x.to(device) for x in tensors])
