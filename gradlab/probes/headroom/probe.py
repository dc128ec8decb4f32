"""Headroom: how near every site comes to leaving the FP16 range, forward and backward.

Sites are the modules' outputs, the gradients there and, where the passes compute in FP16, the
gradients of the parameters, which a loss scale makes the first to overflow. One read of each tensor
gives its extremes: enough to know the headroom and whether anything overflowed. The counts that
take more reads are made at some looks and, on a CPU, wherever an extreme is not finite.
"""

import weakref
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from gradlab.errors import GradlabError
from gradlab.models.attention import Scores
from gradlab.probes.cadence import Cadence
from gradlab.probes.distributed.shards import is_spread
from gradlab.probes.engine.compiled import CompiledLater
from gradlab.probes.headroom.extremes import Extremes
from gradlab.probes.headroom.overflows import overflow_rows, overflows
from gradlab.probes.headroom.rows import headroom_rows, site_step
from gradlab.probes.probe import Columns, Probe, Reading, Step, Subject
from gradlab.probes.selection import Patterns, clean_name, select
from gradlab.probes.sites import (
    Direction,
    Place,
    SiteStep,
    floats_of,
    in_backward,
    sites,
)
from gradlab.probes.statistics import (
    details,
    extremes,
    is_finite_on_cpu,
    small_counts,
)

_Look: TypeAlias = tuple[str, Direction, torch.dtype, bool]
"""A place's attributes, in their order."""


@dataclass
class _Pass:
    """What one step has shown so far.

    `sums` leads from the place of a gradient's first look to that of the sum which it became;
    `broken` says whether a CPU tensor was not finite.
    """

    sampled: bool
    counting: bool
    order: list[int] = field(default_factory=list)
    entries: list[int] = field(default_factory=list)
    gradients: dict[str, int] = field(default_factory=dict)
    sums: dict[int, int] = field(default_factory=dict)
    counted: list[int] = field(default_factory=list)
    counts: list[Tensor] = field(default_factory=list)
    poisoned: list[int] = field(default_factory=list)
    broken: bool = False


class Headroom(Probe):
    """Largest magnitude at every site, the bits left before FP16 overflows, and overflow events.

    Every gradient is seen as it exists: multiplied by the loss scale. Hooks read and change
    nothing; passes without gradients are not looked at, and an activation that checkpointing
    computes again is recorded once.

    Rows of `headroom` are written at the sampled steps and, once an FP16 tensor has overflowed,
    for the `lead` steps before; `overflows` has a row for each such tensor.

    Args:
        at: Patterns over the names of modules and parameters.
        every: Cadence of the looks; None for that of `attach`.
        sample: Looks between two that are written, overflows aside.
        count: Looks between two with the counts that take several reads: `underflow_frac`, and
            on a GPU those of the entries that are not finite.
        lead: Steps that are kept to be written if one overflows.
    """

    table = "headroom"
    looks_inside = True

    def __init__(
        self,
        at: Patterns = "*",
        *,
        every: Cadence | None = None,
        sample: int = 1,
        count: int = 10,
        lead: int = 50,
    ) -> None:
        for name, number in (("sample", sample), ("count", count)):
            if number < 1:
                raise GradlabError(f"{name} = {number}: it is a number of looks, 1 or more.")
        self.every = every
        self._patterns = at
        self._sample, self._count = sample, count
        self._lead: deque[SiteStep] = deque(maxlen=lead)

    def tables(self) -> tuple[str, ...]:
        """Headroom, and the overflow events."""
        return ("headroom", "overflows")

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
        self._fp16 = False
        self._pass = _Pass(False, False)
        self._extremes = Extremes()
        self._passed: set[str] = set()
        self._pass_ended = False
        self._called = self._backward_seen = False
        self._compiled: CompiledLater | None = None
        self._last_output: tuple[weakref.ref[Tensor], int] | None = None
        self._lead.clear()
        self.latest: SiteStep | None = None
        for name, chosen in select(named, self._patterns, "modules or parameters").items():
            if isinstance(chosen, nn.Parameter):
                if chosen.is_complex():
                    continue
                yield chosen.register_post_accumulate_grad_hook(partial(self._on_gradient, name))
            else:
                self._compiled = self._compiled or CompiledLater(subject.model, _COMPILED)
                hook = partial(self._on_forward, name, _masking(chosen))
                yield chosen.register_forward_hook(hook)

    def begin(self, step: int) -> None:
        """Start an empty record."""
        self._pass = _Pass(self._looks % self._sample == 0, self._looks % self._count == 0)
        self._fp16 = False
        self._looks += 1
        self._extremes.clear()
        self._passed.clear()
        self._called = self._backward_seen = False

    def after_backward(self, changed: Mapping[str, nn.Parameter], loss_scale: Tensor) -> None:
        """The next forward pass is another one."""
        self._pass_ended = self._backward_seen = True

    def after_step(self) -> Reading | None:
        """What the step's passes showed."""
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
            "counted": seen.counted,
            "poisoned": seen.poisoned,
            "sampled": [seen.sampled],
        }
        values = {"low": numbers[:, 0], "high": numbers[:, 1]}
        if seen.counts:
            values["counts"] = _joined(seen.counts)
        return Reading(labels, values)

    def joined(self, readings: Sequence[Columns]) -> Columns:
        """Every process's passes, as if they were micro-batches."""
        places = dict.fromkeys(place for reading in readings for place in reading["places"])
        index = {place: at for at, place in enumerate(places)}
        whole: dict[str, list[Any]] = {name: [] for name in readings[0]}
        for reading in readings:
            at = [index[place] for place in reading["places"]]
            looks = list(range(len(whole["order"]), len(whole["order"]) + len(reading["order"])))
            becomes = {"order": at, "poisoned": at, "rows": looks, "counted": looks}
            for name, column in reading.items():
                if name in becomes:
                    column = [becomes[name][i] for i in column]
                whole.setdefault(name, []).extend(column)
        return {**whole, "places": tuple(places)}

    def rows(self, step: Step, columns: Columns) -> Mapping[str, Columns]:
        """Overflow events; headroom at a sampled step, or of all steps that led to an overflow."""
        sites = site_step(step.step, columns)
        self.latest = sites
        events = overflows(sites)
        tables = {}
        due = [sites] if sites.sampled else []
        if events:
            tables["overflows"] = overflow_rows(sites, events, step)
            due = [*self._lead, sites]
            self._lead.clear()
        elif not sites.sampled:
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
        self, name: str, masking: "_Masking", module: nn.Module, args: Any, output: Any
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
                self._on_output(name + suffix, masking, module, args, tensor)

    def _is_last_output(self, tensor: Tensor) -> bool:
        """Whether the module only passes on what a part of it gave, unchanged."""
        last, self._last_output = self._last_output, (weakref.ref(tensor), tensor._version)
        return last is not None and last[0]() is tensor and last[1] == tensor._version

    def _on_output(
        self, name: str, masking: "_Masking", module: nn.Module, args: Any, output: Tensor
    ) -> None:
        seen, numel = _plain(output), output.numel()
        if isinstance(module, Scores):
            # A causal model never uses a score above the diagonal, nor its gradient (zero).
            length = output.shape[-1]
            seen, numel = seen.tril(), numel * (length + 1) // (2 * length)
        masks = masking == "always" or (
            masking == "square" and _is_square(output) and not self._pass.broken
        )
        if self._dtypes.get(name) is not output.dtype:
            self._dtypes[name] = output.dtype
            self._note_use(name, module, args, output.dtype)
        look: _Look = (name, "forward", output.dtype, masks)
        finite = self._see(look, seen, numel)
        self._pass.broken |= not finite and not masks
        if not finite and not self._pass.poisoned and _any_not_finite(args):
            self._pass.poisoned.append(self._index[look])
        # A leaf, as a module gives that returns its parameter, would keep the hook for good.
        if output.requires_grad and not output.is_leaf:
            output.register_hook(partial(self._on_output_gradient, name, numel))

    def _on_output_gradient(self, name: str, numel: int, gradient: Tensor) -> None:
        if self.active:
            self._see((name, "backward", gradient.dtype, False), _plain(gradient), numel)

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
        look: _Look = (name, "backward", dtype, False)
        self._see(look, values, parameter.numel())
        if (index := self._index.get(look)) is not None:
            if before is not None and before != index:
                seen.sums[before] = index
            seen.gradients[name] = index

    def _note_use(self, name: str, module: nn.Module, args: Any, dtype: torch.dtype) -> None:
        """Note in which dtype a module uses its parameters, its own or those handed to it."""
        given = (arg for arg in args if isinstance(arg, nn.Parameter))
        for parameter in (*module.parameters(recurse=False), *given):
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


_Masking: TypeAlias = Literal["never", "square", "always"]


def _masking(module: nn.Module) -> _Masking:
    """When −inf in a module's output is taken for a mask.

    Always, of a module without parameters; of one with parts that have some, where the output has
    as many rows as columns, which scores have and a stream of activations hardly ever, and all
    before it was finite. Our own
    models' give masked values to nobody: their sums and products can be −inf by overflow only.
    """
    if type(module).__module__.startswith("gradlab.models."):
        return "never"
    if next(module.parameters(recurse=False), None) is not None:
        return "never"
    return "always" if next(module.parameters(), None) is None else "square"


def _is_square(x: Tensor) -> bool:
    return x.dim() > 2 and x.shape[-1] == x.shape[-2]


def _any_not_finite(args: Any) -> bool:
    """Whether a module was handed a CPU tensor that is not finite."""
    return any(
        x.device.type == "cpu" and x.numel() > 0 and not is_finite_on_cpu(*extremes(x.detach()))
        for _, x in floats_of(args)
    )


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors one after another, on the first one's device."""
    return torch.cat([x.to(tensors[0].device) for x in tensors])
