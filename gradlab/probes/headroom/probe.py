"""Headroom: how near every site comes to leaving the FP16 range, forward and backward.

Sites are the modules' outputs, the gradients there and, where the passes compute in FP16, the
gradients of the parameters, which a loss scale makes the first to overflow. One read of each tensor
gives its extremes: enough to know the headroom and whether anything overflowed. The counts that
take more reads are made at some looks and, on a CPU, wherever an extreme is not finite.
"""

import math
import weakref
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gradlab.models.causal import lower_triangle
from gradlab.probes.arguments import whole_number
from gradlab.probes.cadence import Cadence
from gradlab.probes.engine.captured import Captured
from gradlab.probes.engine.compiled import CompiledLater
from gradlab.probes.faults import fault_rows
from gradlab.probes.headroom.causes import cause_of, makes_zeros
from gradlab.probes.headroom.compiled import CAN_LOOK_INSIDE, COMPILED, CompiledLooks
from gradlab.probes.headroom.faults import site_faults
from gradlab.probes.headroom.lead import Lead
from gradlab.probes.headroom.looked_at import Arguments, entries, has_unused, hooked, plain, used_by
from gradlab.probes.headroom.masks import Masking, is_square, masking_of
from gradlab.probes.headroom.overflows import overflow_rows, overflows
from gradlab.probes.headroom.rows import ReadStep, headroom_rows, joined_columns, rows_of, tightest
from gradlab.probes.headroom.seen import Look, Seen, SharedSeen
from gradlab.probes.operations.finder import Operations
from gradlab.probes.probe import Columns, Probe, Reading, Step, Subject
from gradlab.probes.selection import Patterns, clean_name, select
from gradlab.probes.sites import (
    HANDED,
    floats_of,
    hook_gradient,
    in_backward,
    sites,
    version_of,
)


class Headroom(Probe):
    """Largest magnitude at every site, the bits left before FP16 overflows, and overflow events.

    Every gradient is seen as it exists: multiplied by the loss scale. Hooks read and change
    nothing; passes without gradients are not looked at, and an activation that checkpointing
    computes again is recorded once.

    Rows of `headroom` are written at the sampled steps and, once an FP16 tensor has overflowed,
    for the `lead` steps before; `overflows` has a row for each such tensor. At a step that is not
    on the cadence and has an event, a large fp32 tensor on a CPU has no row as long as the root of
    the sum of its squares is under 65520 and nothing was FP16: it was finite, and is not measured.

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
    looks_inside = not CAN_LOOK_INSIDE
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
            if number is not None:
                whole_number(name, number, 1, "a number of looks")
        whole_number("lead", lead, 0, "a number of steps")
        self.every = every
        self._patterns = at
        self._sample, self._count = sample, count
        self._every_operation = operations
        self._lead = Lead(lead)

    def tables(self) -> tuple[str, ...]:
        """Headroom, the overflow events, and what was not finite elsewhere or all zero."""
        return ("headroom", "overflows", "faults")

    def open(self, subject: Subject) -> Iterable[RemovableHandle]:
        """Put hooks on the modules and parameters chosen."""
        named: dict[str, nn.Module | nn.Parameter] = {
            clean_name(name): module for name, module in sites(subject.model) if clean_name(name)
        }
        named |= subject.parameters
        self._used_by: dict[nn.Parameter, dict[str, torch.dtype]] = {}
        self._dtypes: dict[str, torch.dtype] = {}
        self._looks = 0
        gpus = {p.device for p in subject.model.parameters() if p.is_cuda}
        seen = SharedSeen if len(gpus) > 1 else Seen
        self.seen = seen(dist.get_rank() if dist.is_initialized() else 0)
        self._passed: set[str] = set()
        self._pass_ended = False
        self._called = self._backward_seen = self._given_lost = False
        self._compiled: CompiledLater | None = None
        self._trained: set[str] = set()
        self._inputs = [CompiledLooks(partial(self._on_input, m), None) for m in (False, True)]
        self._returned = CompiledLooks(None, self._on_returned)
        self._last_output: tuple[weakref.ref[Tensor], int] | None = None
        self._gradient_hooks: dict[str, partial[None]] = {}
        self._arguments = Arguments(subject.model)
        self._lead.clear()
        self._operations = Operations(subject.model, self._every_operation)
        self.latest: ReadStep | None = None
        yield from self._operations.hooks()
        for looks in (*self._inputs, self._returned):
            yield from looks.handles
        self._captured = Captured(subject.model)
        left_out = self._captured.left_out
        yield subject.model.register_forward_pre_hook(left_out(self._on_inputs), with_kwargs=True)
        yield subject.model.register_forward_hook(left_out(self._on_end))
        selected = select(named, self._patterns, "modules or parameters")
        self._parameters = [x for x in selected.values() if isinstance(x, nn.Parameter)]
        if modules := [name for name, x in selected.items() if isinstance(x, nn.Module)]:
            inside = modules if CAN_LOOK_INSIDE else ()
            self._compiled = CompiledLater(subject.model, COMPILED, inside)
        for name, chosen in selected.items():
            if isinstance(chosen, nn.Parameter):
                if chosen.is_complex():
                    continue
                uses = self._used_by.setdefault(chosen, {})
                on_gradient = partial(self._on_gradient, name, uses)
                yield chosen.register_post_accumulate_grad_hook(on_gradient)
            else:
                masking = masking_of(chosen)
                looks = CompiledLooks(
                    partial(self._on_compiled, name, masking, chosen),
                    partial(self._on_compiled_gradient, name, chosen),
                )
                yield from looks.handles
                hook = partial(self._on_forward, name, masking, looks)
                yield chosen.register_forward_hook(hook, with_kwargs=True)

    def state(self) -> Mapping[str, Any]:
        """Looks so far, the rows held back, and what was seen of sites and operations."""
        return {
            "looks": self._looks - self.due,
            "lead": self._lead.state(),
            "seen": self.seen.state(),
            "operations": self._operations.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self._looks = state["looks"]
        self._lead.restore(state["lead"])
        self.seen.restore(state["seen"])
        self._operations.restore(state["operations"])

    def begin(self, step: int) -> None:
        """Start an empty record."""
        self.seen.begin(
            sampled=self.due and self._looks % self._sample == 0,
            counting=self.due and self._looks % self._count == 0,
            bounding=not self.due,
        )
        self._looks += self.due
        self._passed.clear()
        self._trained.clear()
        self._operations.begin()
        self._called = self._backward_seen = self._given_lost = False
        self._waits = not dist.is_initialized() and not any(map(hooked, self._parameters))

    def after_backward(self, changed: Mapping[str, nn.Parameter], loss_scale: Tensor) -> None:
        """The next forward pass is another one."""
        self._pass_ended = self._backward_seen = True
        self.seen.extremes.waiting.read()
        self._operations.pass_ended(broken=self.seen.lost)
        self._trained.update(changed)

    def before_step(self) -> None:
        """Find the operation to blame, while the parameters are as they were."""
        self._operations.look(broken=self.seen.lost)

    def after_step(self) -> Reading | None:
        """What the step's passes showed."""
        self._operations.look(broken=self.seen.lost)  # of a step without an optimizer's
        found = self._operations.found
        if self._backward_seen and self._compiled is not None:
            self._compiled.look(hooks_called=self._called, seen=self._passed, trained=self._trained)
        return self.seen.reading(
            [found.operation.function, found.operation.source] if found else []
        )

    def joined(self, readings: Sequence[Columns]) -> Columns:
        """Every process's passes, as if they were micro-batches."""
        return joined_columns(readings)

    def notices(self, columns: Columns) -> bool:
        """Whether a tensor was not finite, masks aside."""
        if math.isfinite(sum(columns["low"])) and math.isfinite(sum(columns["high"])):
            return False
        return not all(map((sites := ReadStep(0, columns).sites).finite, sites.order))

    def between(self, step: Step, columns: Columns) -> Mapping[str, Columns]:
        """None; the step may turn out to have led to an overflow."""
        read = ReadStep(step.step, columns)
        if not columns["bounded"]:
            self.latest = read
        self._lead.add(read)
        return {}

    def rows(self, step: Step, columns: Columns) -> Mapping[str, Columns]:
        """Overflow events; headroom at a sampled step, or of all steps that led to an overflow."""
        self.latest = read = ReadStep(step.step, columns)
        sites = read.sites
        events = overflows(sites)
        tables = {}
        due = bool(sites.sampled or step.event)
        if (faults := site_faults(sites, events)) and (due or events):
            tables["faults"] = fault_rows(faults)
        if events:
            tables["overflows"] = overflow_rows(sites, events, step)
        elif not due:
            self._lead.add(read)
            return tables
        led = self._lead.taken() if events else []
        if rows := headroom_rows([*led, rows_of(sites)]):
            tables["headroom"] = rows
        return tables

    def held_back(self) -> Mapping[str, Columns]:
        """Headroom of the last steps."""
        return {"headroom": rows} if (rows := headroom_rows(self._lead.taken())) else {}

    def standing(self) -> Mapping[str, Any]:
        """The tightest site."""
        bits, site = tightest(self.latest.sites) if self.latest else (None, None)
        return {"least_headroom": bits, "tightest_site": site}

    def _on_forward(
        self,
        name: str,
        masking: Masking,
        looks: CompiledLooks,
        module: nn.Module,
        args: Any,
        kwargs: Mapping[str, Any],
        output: Any,
    ) -> None:
        if torch.compiler.is_compiling():
            looks.trace(output)
        elif self._is_new(name, has_graph=torch.is_grad_enabled()):
            for suffix, tensor in floats_of(output):
                last, version = self._last_output, version_of(tensor)
                # A module may only pass on what a part of it gave, unchanged.
                if last is None or last[0]() is not tensor or last[1] != version:
                    self._last_output = weakref.ref(tensor), version
                    self._on_output(name + suffix, masking, module, (args, kwargs), tensor)

    def _on_compiled(
        self, name: str, masking: Masking, module: nn.Module, suffix: str, output: Tensor
    ) -> None:
        """A compiled graph that runs has come to a module's output."""
        site = name + suffix
        if self._is_new(site, has_graph=True):
            self.seen.inside.add(site)
            self._on_output(site, masking, module, None, output)

    def _on_compiled_gradient(
        self, name: str, module: nn.Module, suffix: str, gradient: Tensor
    ) -> None:
        self._look_at_gradient(name + suffix, entries(module, gradient), False, gradient)

    def _is_new(self, name: str, *, has_graph: bool) -> bool:
        """Whether an output is one to look at, and not computed again by checkpointing."""
        if not self.active or self._captured.now():
            return False
        self._called = True
        again = in_backward()
        if self._pass_ended and not again:
            self._pass_ended = False
            self._passed.clear()
        if not has_graph or (again and name in self._passed):
            return False
        self._passed.add(name)
        self.saw_forward = True
        return True

    def _on_inputs(self, module: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
        for position, (name, given) in enumerate(self._arguments.of(args, kwargs)):
            if torch.compiler.is_compiling():
                # An index that is a bool is none that earlier torch traces.
                self._inputs[int(position > 0)].trace(given, name)
            elif self.active and torch.is_grad_enabled() and not in_backward():
                for suffix, tensor in floats_of(given):
                    # As `cause_of` has it: a mask has no gradient, and does not come first.
                    masks = not tensor.requires_grad and (position > 0 or suffix != "")
                    self._on_input(masks, name + suffix, tensor)

    def _on_input(self, masks: bool, name: str, tensor: Tensor) -> None:
        if self.active:
            look: Look = (name, "forward", tensor.dtype, masks, True)
            finite = self.seen.take(look, plain(tensor), tensor.numel())
            self._given_lost |= not finite and not (masks and self.seen.extremes.last[1] < math.inf)

    def _on_end(self, module: nn.Module, args: Any, output: Any) -> None:
        """The model returns: what its outputs are."""
        if torch.compiler.is_compiling():
            self._returned.trace(output)
        elif self.active and torch.is_grad_enabled():
            for suffix, tensor in floats_of(output):
                if (site := self._site_of(tensor)) is not None:
                    self.seen.ends.add(site)
                elif tensor.requires_grad and not tensor.is_leaf:
                    hook_gradient(tensor, partial(self._on_returned, suffix))

    def _site_of(self, tensor: Tensor) -> str | None:
        """The site whose output a tensor is, unchanged since, if its gradient is looked at."""
        for hook in (tensor._backward_hooks or {}).values():
            if isinstance(hook, partial) and hook.func == self._on_output_gradient:
                name, _, version = hook.args
                return str(name) if version == version_of(tensor) else None
        return None

    def _on_returned(self, suffix: str, gradient: Tensor) -> None:
        self._look_at_gradient(f"output{suffix}", gradient.numel(), True, gradient)

    def _on_output(
        self, name: str, masking: Masking, module: nn.Module, given: Any, output: Tensor
    ) -> None:
        seen, x, numel, dtype = self.seen, plain(output), output.numel(), output.dtype
        if has_unused(module):
            x, numel = lower_triangle(x), entries(module, output)
        masks = masking == "always" or (
            masking == "square" and is_square(output) and not seen.broken
        )
        if self._dtypes.get(name) is not dtype:
            self._dtypes[name] = dtype
            for parameter in used_by(module, given):
                self._used_by.setdefault(parameter, {})[name] = dtype
        look: Look = (name, "forward", dtype, masks, False)
        finite = seen.take(look, x, numel) or (masks and seen.extremes.last[1] < math.inf)
        seen.lost |= not finite
        if not finite and not seen.broken:
            seen.broken = True
            cause = cause_of(name, module, given, dtype)
            if given is None and cause is None and self._given_lost:
                cause = HANDED  # by the model's input, as nothing before this was not finite
            if cause is not None:
                seen.causes[seen.index(look)] = cause
        # A leaf, as a module gives that returns its parameter, would keep the hook for good.
        if output.requires_grad and not output.is_leaf:
            known, version = self._gradient_hooks.get(name), version_of(output)
            if known is None or known.args != (name, numel, version):
                known = partial(self._on_output_gradient, name, numel, version)
                self._gradient_hooks[name] = known
            hook_gradient(output, known)
            # A single number may be a loss that has nothing to add.
            is_zero = numel > 1 and not any(seen.extremes.last)
            if is_zero and makes_zeros(module, given):
                seen.zeroed.append(seen.index(look))

    def _on_output_gradient(self, name: str, numel: int, version: int, gradient: Tensor) -> None:
        if self.active:
            look: Look = (name, "backward", gradient.dtype, False, False)
            self.seen.lost |= not self.seen.take(look, plain(gradient), numel)

    def _look_at_gradient(self, name: str, numel: int, outside: bool, gradient: Tensor) -> None:
        if self.active:
            look: Look = (name, "backward", gradient.dtype, False, outside)
            self.seen.lost |= not self.seen.take(look, plain(gradient), numel)

    def _on_gradient(self, name: str, uses: Mapping[str, torch.dtype], parameter: Tensor) -> None:
        # Without FP16 it says no more than the gradient norms do, at the cost of another read.
        known = self.saw_forward and not self.seen.fp16
        if known or not self.active or self._captured.now() or (gradient := parameter.grad) is None:
            return
        dtype = gradient.dtype
        # Else it is a sum, of uses or of micro-batches.
        if len(uses) == 1 and not self.seen.has_gradient(name):
            (used,) = uses.values()
            dtype = used if used.itemsize < dtype.itemsize else dtype
        # One that waits has to share its count of changes, which .data begins anew.
        held = gradient.detach() if gradient.requires_grad else gradient
        values = held.coalesce().values() if held.is_sparse else plain(held)
        look: Look = (name, "backward", dtype, False, False)
        self.seen.take_gradient(look, values, parameter.numel(), waits=self._waits)
