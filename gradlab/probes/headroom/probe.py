"""Headroom: how near every site comes to leaving the FP16 range, forward and backward.

Sites are the modules' outputs, the gradients there and, where the passes compute in FP16, the
gradients of the parameters, which a loss scale makes the first to overflow. One read of each tensor
gives its extremes: enough to know the headroom and whether anything overflowed. The counts that
take more reads are made at some looks and, on a CPU, wherever an extreme is not finite.
"""

import inspect
import math
import weakref
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves
from torch.utils.hooks import RemovableHandle

from gradlab.errors import GradlabError
from gradlab.models.attention import Scores
from gradlab.probes.cadence import Cadence
from gradlab.probes.distributed.shards import is_spread
from gradlab.probes.engine.compiled import CompiledLater
from gradlab.probes.faults import fault_rows
from gradlab.probes.headroom.causes import cause_of, makes_zeros
from gradlab.probes.headroom.extremes import Extremes
from gradlab.probes.headroom.faults import site_faults
from gradlab.probes.headroom.masks import Masking, is_square, masking_of
from gradlab.probes.headroom.overflows import overflow_rows, overflows
from gradlab.probes.headroom.rows import headroom_rows, joined_columns, site_step
from gradlab.probes.operations.finder import Operations
from gradlab.probes.probe import Columns, Probe, Reading, Step, Subject
from gradlab.probes.selection import Patterns, clean_name, select
from gradlab.probes.sites import (
    Direction,
    Place,
    SiteStep,
    floats_of,
    in_backward,
    sites,
    version_of,
)
from gradlab.probes.statistics import details, small_counts

_Look: TypeAlias = tuple[str, Direction, torch.dtype, bool, bool]
"""A place's attributes, in their order."""


@dataclass
class _Pass:
    """What one step has shown so far.

    `sums` leads from the place of a gradient's first look to that of the sum which it became;
    `broken` says whether a CPU tensor was not finite in the forward pass, `lost` in either.
    """

    sampled: bool
    counting: bool
    order: list[int] = field(default_factory=list)
    entries: list[int] = field(default_factory=list)
    gradients: dict[str, int] = field(default_factory=dict)
    sums: dict[int, int] = field(default_factory=dict)
    counted: list[int] = field(default_factory=list)
    counts: list[Tensor] = field(default_factory=list)
    causes: dict[int, str] = field(default_factory=dict)
    ends: set[str] = field(default_factory=set)
    zeroed: list[int] = field(default_factory=list)
    broken: bool = False
    lost: bool = False


class Headroom(Probe):
    """Largest magnitude at every site, the bits left before FP16 overflows, and overflow events.

    Every gradient is seen as it exists: multiplied by the loss scale. Hooks read and change
    nothing; passes without gradients are not looked at, and an activation that checkpointing
    computes again is recorded once.

    Rows of `headroom` are written at the sampled steps and, once an FP16 tensor has overflowed,
    for the `lead` steps before; `overflows` has a row for each such tensor.

    Args:
        at: Patterns over the names of modules and parameters.
        every: Cadence of the rows; None for that of `attach`.
        sample: Steps of the cadence between two that are written, events aside.
        count: Steps of the cadence between two with the counts that take several reads:
            `underflow_frac`, and on a GPU those of the entries that are not finite.
        lead: Steps that are kept to be written if one overflows.
        operations: Looks between two that follow the step operation by operation, at several times
            its cost, to name the one to blame. None for the steps alone in which something was not
            finite, where they can be made again (`gradlab.probes.operations`).
    """

    table = "headroom"
    looks_inside = True
    exact = True

    def __init__(
        self,
        at: Patterns = "*",
        *,
        every: Cadence | None = None,
        sample: int = 1,
        count: int = 10,
        lead: int = 50,
        operations: int | None = None,
    ) -> None:
        for name, number in (("sample", sample), ("count", count), ("operations", operations)):
            if number is not None and number < 1:
                raise GradlabError(f"{name} = {number}: it is a number of looks, 1 or more.")
        self.every = every
        self._patterns = at
        self._sample, self._count = sample, count
        self._every_operation = operations
        self._lead: deque[SiteStep] = deque(maxlen=lead)

    def tables(self) -> tuple[str, ...]:
        """Headroom, the overflow events, and what was not finite elsewhere or all zero."""
        return ("headroom", "overflows", "faults")

    def open(self, subject: Subject) -> Iterable[RemovableHandle]:
        """Put hooks on the modules and parameters chosen."""
        named: dict[str, nn.Module | nn.Parameter] = {
            clean_name(name): module for name, module in sites(subject.model) if clean_name(name)
        }
        named |= subject.parameters
        self._places: list[Place] = []
        self._index: dict[_Look, int] = {}
        self._used_by: dict[nn.Parameter, dict[str, torch.dtype]] = {}
        self._dtypes: dict[str, torch.dtype] = {}
        self._looks = 0
        self._rank = dist.get_rank() if dist.is_initialized() else 0
        self._fp16 = False
        self._pass = _Pass(False, False)
        self._extremes = Extremes()
        self._passed: set[str] = set()
        self._pass_ended = False
        self._called = self._backward_seen = False
        self._compiled: CompiledLater | None = None
        self._last_output: tuple[weakref.ref[Tensor], int] | None = None
        self._outputs: dict[int, tuple[str, weakref.ref[Tensor], int]] = {}
        self._arguments = _arguments(subject.model)
        self._lead.clear()
        self._operations = Operations(subject.model, self._every_operation)
        self.latest: SiteStep | None = None
        yield from self._operations.hooks()
        yield subject.model.register_forward_pre_hook(self._on_inputs, with_kwargs=True)
        yield subject.model.register_forward_hook(self._on_end)
        for name, chosen in select(named, self._patterns, "modules or parameters").items():
            if isinstance(chosen, nn.Parameter):
                if chosen.is_complex():
                    continue
                yield chosen.register_post_accumulate_grad_hook(partial(self._on_gradient, name))
            else:
                self._compiled = self._compiled or CompiledLater(subject.model, _COMPILED)
                hook = partial(self._on_forward, name, masking_of(chosen))
                yield chosen.register_forward_hook(hook, with_kwargs=True)

    def begin(self, step: int) -> None:
        """Start an empty record."""
        sampled, counting = (self._looks % n == 0 for n in (self._sample, self._count))
        self._pass = _Pass(self.due and sampled, self.due and counting)
        self._fp16 = False
        self._looks += self.due
        self._extremes.clear()
        self._passed.clear()
        self._outputs.clear()
        self._operations.begin()
        self._called = self._backward_seen = False

    def after_backward(self, changed: Mapping[str, nn.Parameter], loss_scale: Tensor) -> None:
        """The next forward pass is another one."""
        self._pass_ended = self._backward_seen = True
        self._operations.pass_ended(broken=self._pass.lost)

    def before_step(self) -> None:
        """Find the operation to blame, while the parameters are as they were."""
        self._operations.look(broken=self._pass.lost)

    def after_step(self) -> Reading | None:
        """What the step's passes showed."""
        self._operations.look(broken=self._pass.lost)  # of a step without an optimizer's
        found = self._operations.found
        if self._backward_seen and self._compiled is not None:
            self._compiled.look(hooks_called=self._called)
        seen = self._pass
        if not seen.order:
            return None
        numbers, rows = self._extremes.together()
        labels: Columns = {
            "places": tuple(self._places),
            "order": [seen.sums.get(index, index) for index in seen.order],
            "rows": rows,
            "entries": seen.entries,
            "ranks": [self._rank] * len(seen.order),
            "counted": seen.counted,
            "caused": list(seen.causes),
            "causes": list(seen.causes.values()),
            "ends": list(seen.ends),
            "zeroed": seen.zeroed,
            "operation": [found.operation.function, found.operation.source] if found else [],
            "sampled": [seen.sampled],
        }
        values = {"low": numbers[:, 0], "high": numbers[:, 1]}
        if seen.counts:
            values["counts"] = _joined(seen.counts)
        return Reading(labels, values)

    def joined(self, readings: Sequence[Columns]) -> Columns:
        """Every process's passes, as if they were micro-batches."""
        return joined_columns(readings)

    def notices(self, columns: Columns) -> bool:
        """Whether a tensor was not finite, masks aside."""
        if math.isfinite(sum(columns["low"])) and math.isfinite(sum(columns["high"])):
            return False
        return not all(map((sites := site_step(0, columns)).finite, sites.order))

    def between(self, step: Step, columns: Columns) -> Mapping[str, Columns]:
        """None; the step may turn out to have led to an overflow."""
        self.latest = site_step(step.step, columns)
        self._lead.append(self.latest)
        return {}

    def rows(self, step: Step, columns: Columns) -> Mapping[str, Columns]:
        """Overflow events; headroom at a sampled step, or of all steps that led to an overflow."""
        sites = site_step(step.step, columns)
        self.latest = sites
        events = overflows(sites)
        tables = {}
        due = [sites] if sites.sampled or step.event else []
        if (faults := site_faults(sites, events)) and (due or events):
            tables["faults"] = fault_rows(faults)
        if events:
            tables["overflows"] = overflow_rows(sites, events, step)
            due = [*self._lead, sites]
            self._lead.clear()
        elif not due:
            self._lead.append(sites)
        if due:
            tables["headroom"] = headroom_rows(due)
        return tables

    def lead_up(self, until: int) -> Mapping[str, Columns]:
        """The rows of the last steps up to one that were kept back, to be written after all."""
        due = [sites for sites in self._lead if sites.step <= until]
        self._lead.clear()
        return {"headroom": headroom_rows(due)} if due else {}

    def _on_forward(
        self,
        name: str,
        masking: Masking,
        module: nn.Module,
        args: Any,
        kwargs: Mapping[str, Any],
        output: Any,
    ) -> None:
        if torch.compiler.is_compiling() or not self.active:
            return
        self._called = True
        again = in_backward()
        if self._pass_ended and not again:
            self._pass_ended = False
            self._passed.clear()
        if not torch.is_grad_enabled() or (again and name in self._passed):
            return
        self._passed.add(name)
        self.saw_forward = True
        for suffix, tensor in floats_of(output):
            if not self._is_last_output(tensor):
                self._on_output(name + suffix, masking, module, (args, kwargs), tensor)
                self._outputs[id(tensor)] = name + suffix, weakref.ref(tensor), version_of(tensor)

    def _is_last_output(self, tensor: Tensor) -> bool:
        """Whether the module only passes on what a part of it gave, unchanged."""
        last, self._last_output = self._last_output, (weakref.ref(tensor), version_of(tensor))
        return last is not None and last[0]() is tensor and last[1] == version_of(tensor)

    def _on_inputs(self, module: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
        if torch.compiler.is_compiling() or not self.active or not torch.is_grad_enabled():
            return
        if in_backward():
            return
        named = (*zip(self._arguments, args, strict=False), *kwargs.items())
        for position, (name, given) in enumerate(named):
            for suffix, tensor in floats_of(given):
                # As `cause_of` has it: a mask has no gradient, and does not come first.
                masks = not tensor.requires_grad and (position > 0 or suffix != "")
                look: _Look = (name + suffix, "forward", tensor.dtype, masks, True)
                self._see(look, _plain(tensor), tensor.numel())

    def _on_end(self, module: nn.Module, args: Any, output: Any) -> None:
        """The model returns: what its outputs are."""
        if torch.compiler.is_compiling() or not self.active or not torch.is_grad_enabled():
            return
        for suffix, tensor in floats_of(output):
            name, made, version = self._outputs.get(id(tensor), ("", None, 0))
            if made is not None and made() is tensor and version == version_of(tensor):
                self._pass.ends.add(name)
            elif tensor.requires_grad and not tensor.is_leaf:
                act = partial(self._on_output_gradient, f"output{suffix}", tensor.numel(), True)
                tensor.register_hook(act)
        self._outputs.clear()

    def _on_output(
        self, name: str, masking: Masking, module: nn.Module, given: Any, output: Tensor
    ) -> None:
        seen, numel = _plain(output), output.numel()
        if isinstance(module, Scores):
            # A causal model never uses a score above the diagonal, nor its gradient (zero).
            length = output.shape[-1]
            seen, numel = seen.tril(), numel * (length + 1) // (2 * length)
        masks = masking == "always" or (
            masking == "square" and is_square(output) and not self._pass.broken
        )
        if self._dtypes.get(name) is not output.dtype:
            self._dtypes[name] = output.dtype
            self._note_use(name, module, given, output.dtype)
        look: _Look = (name, "forward", output.dtype, masks, False)
        finite = self._see(look, seen, numel) or (masks and self._extremes.last[1] < math.inf)
        self._pass.lost |= not finite
        if not finite and not self._pass.broken:
            self._pass.broken = True
            if (cause := cause_of(name, module, given, output.dtype)) is not None:
                self._pass.causes[self._index[look]] = cause
        # A leaf, as a module gives that returns its parameter, would keep the hook for good.
        if output.requires_grad and not output.is_leaf:
            output.register_hook(partial(self._on_output_gradient, name, numel, False))
            # A single number may be a loss that has nothing to add.
            is_zero = numel > 1 and not any(self._extremes.last)
            if is_zero and makes_zeros(module, given):
                self._pass.zeroed.append(self._index[look])

    def _on_output_gradient(self, name: str, numel: int, outside: bool, gradient: Tensor) -> None:
        if self.active:
            look: _Look = (name, "backward", gradient.dtype, False, outside)
            self._pass.lost |= not self._see(look, _plain(gradient), numel)

    def _on_gradient(self, name: str, parameter: Tensor) -> None:
        gradient = parameter.grad
        # Without FP16 it says no more than the gradient norms do, at the cost of another read.
        redundant = self.saw_forward and not self._fp16
        if not self.active or redundant or gradient is None:
            return
        dtype, seen = gradient.dtype, self._pass
        before = seen.gradients.get(name)
        uses = self._used_by.get(cast(nn.Parameter, parameter), {})
        if before is None and len(uses) == 1:  # else a sum, of uses or of micro-batches
            (used,) = uses.values()
            dtype = used if used.itemsize < dtype.itemsize else dtype
        values = gradient.coalesce().values() if gradient.is_sparse else _plain(gradient)
        look: _Look = (name, "backward", dtype, False, False)
        seen.lost |= not self._see(look, values, parameter.numel())
        if (index := self._index.get(look)) is not None:
            if before is not None and before != index:
                seen.sums[before] = index
            seen.gradients[name] = index

    def _note_use(self, name: str, module: nn.Module, given: Any, dtype: torch.dtype) -> None:
        """Note in which dtype a module uses its parameters, its own or those handed to it."""
        handed = (x for x in tree_leaves(given) if isinstance(x, nn.Parameter))
        for parameter in (*module.parameters(recurse=False), *handed):
            self._used_by.setdefault(parameter, {})[name] = dtype

    def _see(self, look: _Look, x: Tensor, numel: int) -> bool:
        """Take in a tensor; False if it is on a CPU, where that costs nothing, and not finite."""
        if not x.numel():
            return True
        index = self._index.get(look)
        if index is None:
            index = self._index[look] = len(self._places)
            self._places.append(Place(*look))
        self._fp16 |= x.dtype is torch.float16
        seen = self._pass
        is_finite = self._extremes.take(x)
        seen.order.append(index)
        seen.entries.append(numel)
        if seen.counting or not is_finite:
            seen.counted.append(len(seen.order) - 1)
            known = is_finite and x.is_cpu  # to have nothing that is not finite
            seen.counts.append(F.pad(small_counts(x), (3, 0)) if known else details(x))
        return is_finite


_COMPILED = (
    "no headroom is recorded there. The parameters' gradients are seen; attach Headroom to a model "
    "that is not compiled."
)


def _plain(x: Tensor) -> Tensor:
    """What this process holds of a tensor, without its history."""
    x = x.to_local() if is_spread(x) else x
    return x.detach() if x.requires_grad else x


def _arguments(model: nn.Module) -> tuple[str, ...]:
    """The names of a model's arguments, in their order."""
    try:
        return tuple(inspect.signature(model.forward).parameters)
    except (TypeError, ValueError):  # of a scripted one they are not known
        return ()


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors one after another, on the first one's device."""
    return torch.cat([x.to(tensors[0].device) for x in tensors])
