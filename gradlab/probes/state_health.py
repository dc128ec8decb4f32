"""Parameters and buffers that are not finite, which step made them so, and gradients never given.

What a step starts with is the last one's doing: the optimizer's update of a parameter, or what a
forward pass left in a buffer, such as the statistics that a norm averages, also where the loss
scaler then skipped the step.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gradlab.parallel.spread import is_spread, own_part
from gradlab.probes.faults import Fault, dtype_name, fault_rows, kind_of
from gradlab.probes.finite import not_finite
from gradlab.probes.probe import Columns, Probe, Reading, Step, Subject
from gradlab.probes.selection import Patterns, clean_name, select
from gradlab.probes.sites import has_extremes, version_of

UNSEEN = "a step that was not looked at"
"""Producer of what was broken before a step, where those just before it were left out."""

_ALWAYS = 2**20
"""Entries up to which a buffer is looked at after every step. Beyond, where torch has counted a
change, as in no cache of positions or masks: the kernels of norms change theirs without a count."""


class _Slot:
    """Where a module keeps a parameter or buffer, which it may replace by another."""

    def __init__(
        self, what: Literal["parameter", "buffer"], kept: Mapping[str, Any], key: str
    ) -> None:
        self.what, self.kept, self.key = what, kept, key
        self._version = -1
        self._known: Tensor | None = None
        self._tensor = torch.empty(0, device="cpu")
        self._pointer = 0
        self.shape: torch.Size | None = None
        self.held = (torch.float32, 0)
        """Dtype and entries of what was taken last, which may be gone as its row is made."""

    def starts(self) -> bool:
        """Whether what was taken last, a buffer or frozen, had another shape when taken before.

        What is infinite there then may be a mask, made anew for a longer input.
        """
        x = self.kept[self.key]
        if x.requires_grad and self.shape is not None:
            return False
        before, self.shape = self.shape, x.shape
        return x.shape != before and not x.requires_grad

    def is_mask(self) -> bool:
        """Whether what starts with inf is a mask: a buffer, or frozen and nowhere above 0."""
        x = _to_look_at(self.kept.get(self.key))  # it may be gone by now
        return self.what == "buffer" or x is None or bool((x <= 0).all())

    def take(self) -> Tensor | None:
        """What this process has of it now, 1-D, if it can be looked at; it is unchanged then."""
        x: Tensor | None = self.kept.get(self.key)
        known = self._known
        if known is not None and x is known and known.data_ptr() == self._pointer:
            self._version = known._version
            return self._tensor
        self._version = _version(x)
        if x is not None:
            self.held = (x.dtype, x.numel())
        tensor, self._known = _to_look_at(x), None
        if self.what == "parameter" and x is not None and tensor is not None:
            # Not a buffer, which may have a step's history, nor what is copied to be looked at.
            is_same = not is_spread(x) and tensor.data_ptr() == x.data_ptr()
            if is_same and not x.is_inference():
                self._known, self._tensor, self._pointer = x, tensor, x.data_ptr()
        return tensor

    def is_changed(self) -> bool:
        """Whether it was replaced or changed since it was taken, as far as torch counts that."""
        x: Tensor | None = self.kept.get(self.key)
        known = self._known
        if known is not None and x is known and known.data_ptr() == self._pointer:
            return known._version != self._version
        return x is not None and (self.what == "parameter" or _version(x) != self._version)

    def has_lost_gradient(self) -> bool:
        """Whether the gradient, on a CPU, is not finite."""
        gradient = _to_look_at(self.kept[self.key].grad)
        return gradient is not None and bool(not_finite([gradient])[0])


def _version(x: Tensor | None) -> int:
    return 0 if x is None else version_of(x)


def _to_look_at(x: Tensor | None) -> Tensor | None:
    if x is None or nn.parameter.is_lazy(x):
        return None
    x = own_part(x)
    x = x.coalesce().values() if x.is_sparse else x
    return x.detach().reshape(-1) if x.numel() and has_extremes(x) else None


@dataclass(frozen=True)
class _Look:
    """What one look at several of them saw: who was looked at, and who may not be finite.

    Those of `starts` were looked at for the first time, or in another shape.
    """

    looked: list[str]
    starts: list[str]
    names: list[str]
    held: list[tuple[torch.dtype, int]]  # of each, as its slot has it
    numbers: Tensor  # (2 * names,): infinite entries and NaNs of each
    counted: bool
    lost: list[str]


class _Known:
    """What the last looks have shown, on the host: whose inf is a mask, and who is not finite."""

    def __init__(self, slots: Mapping[str, _Slot]) -> None:
        self._slots = slots
        self._masks: set[str] = set()
        self._broken: set[str] = set()

    def state(self) -> dict[str, list[str]]:
        """All of it, for `restore`."""
        return {"masks": sorted(self._masks), "broken": sorted(self._broken)}

    def restore(self, state: Mapping[str, list[str]]) -> None:
        """Know what `state` gave."""
        self._masks, self._broken = set(state["masks"]), set(state["broken"])

    def news(self, columns: Columns) -> list[dict[str, tuple[float, float]]]:
        """Who is not finite that was before, in each look: infinite entries and NaNs by name."""
        numbers = iter(columns["numbers"])
        found = []
        parts = [columns[name] for name in ("looked", "starts", "names")]
        for looked, starts, names in zip(*parts, strict=True):
            held = {name: (next(numbers), next(numbers)) for name in names}
            self._masks.difference_update(starts)
            infinite = [name for name in starts if name in held and held[name][0]]
            self._masks.update(name for name in infinite if self._slots[name].is_mask())
            broken = {
                name: (inf, nan)
                for name, (inf, nan) in held.items()
                if nan or (inf and name not in self._masks)
            }
            found.append({n: both for n, both in broken.items() if n not in self._broken})
            self._broken.difference_update(looked)
            self._broken.update(broken)
        return found


class StateHealth(Probe):
    """Parameters and buffers with inf or NaN, and parameters that were never given a gradient.

    All are looked at once a step, after the optimizer, whatever the cadence of `attach` (at the
    steps of that alone with `events="sampled"`). A row of
    `faults` is written at the step that made a tensor so: `update` for a parameter that the
    optimizer has stepped, `parameter` where it was so before that (a checkpoint, a change by hand),
    `buffer` for a buffer. A buffer that holds inf from the first, or since its shape changed, is a
    mask; so is a frozen parameter that does and has no entry above 0.

    A trained parameter without a gradient has a row of kind `absent` at the first step, with all
    its entries as its count, and another, with 0, at the step at which its first gradient came.

    Args:
        names: Patterns over the names of parameters and buffers.
    """

    table = "faults"
    every = 1
    always = True

    def __init__(self, names: Patterns = "*") -> None:
        self._patterns = names

    def open(self, subject: Subject) -> Iterable[RemovableHandle]:
        """Choose the parameters and buffers."""
        self._slots = select(_slots(subject.model), self._patterns, "parameters or buffers")
        self._trained = {n: p for n, p in subject.trained.items() if n in self._slots}
        self._makers = {
            id(parameter): (type(optimizer).__name__, group.get("eps"))
            for optimizer in subject.optimizers
            for group in optimizer.param_groups
            for parameter in group["params"]
        }
        self._first = True
        self._last = -1
        self._given: set[str] = set()
        self._without: set[str] | None = None
        self._was_broken = False
        # A window is noticed before it is told.
        self._noticed, self._told = _Known(self._slots), _Known(self._slots)
        return ()

    def state(self) -> Mapping[str, Any]:
        """Who has no gradient yet, and what the looks have shown."""
        return {
            "without": None if self._without is None else sorted(self._without),
            "was_broken": self._was_broken,
            "last": self._last,
            "known": self._told.state(),
            "shapes": {name: slot.shape for name, slot in self._slots.items() if slot.shape},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Know that again: the parameters and buffers are as they were, and looked at."""
        self._first = False
        self._without = None if state["without"] is None else set(state["without"])
        self._was_broken, self._last = state["was_broken"], state.get("last", -1)
        for known in (self._noticed, self._told):
            known.restore(state["known"])
        for name, slot in self._slots.items():
            slot.take()
            slot.shape = torch.Size(state["shapes"][name]) if name in state["shapes"] else None

    def begin(self, step: int) -> None:
        """Forget the last step's; look at what the first one starts with."""
        self._looks: dict[Literal["before", "after"], list[_Look]] = {"before": [], "after": []}
        self._unseen = -1 < self._last < step - 1
        self._last = step
        if self._first:
            self._first = False
            self._looks["before"] = self._look(self._slots)

    def after_backward(self, changed: Mapping[str, nn.Parameter], loss_scale: Tensor) -> None:
        """Note which parameters were given a gradient."""
        self._given.update(changed)

    def before_step(self) -> None:
        """Look at the parameters that were changed since the last look, and for gradients."""
        slots = self._slots.items()
        # A loop may fill .grad by itself, which calls no hook.
        wanted = self._trained if self._without is None else self._without
        self._given.update(name for name in wanted if self._trained[name].grad is not None)
        changed = [n for n, slot in slots if slot.what == "parameter" and slot.is_changed()]
        self._looks["before"] += self._look(changed)

    def after_step(self) -> Reading | None:
        """What is not finite now, or was before the step; who was given no gradient."""
        self._looks["after"] = self._look(name for name in self._slots if self._is_due(name))
        missing: list[str] = []
        if self._without is None:
            self._without = self._trained.keys() - self._given
            missing = [name for name in self._trained if name in self._without]
        came = [name for name in self._trained if name in self._without & self._given]
        self._without.difference_update(came)
        self._given.clear()
        looks = [(when, look) for when, several in self._looks.items() for look in several]
        is_broken = any(look.names for _, look in looks)
        was_broken, self._was_broken = self._was_broken, is_broken
        if not (is_broken or was_broken or missing or came):
            return None
        labels: Columns = {
            "when": [when for when, _ in looks],
            "looked": [look.looked for _, look in looks],
            "starts": [look.starts for _, look in looks],
            "names": [look.names for _, look in looks],
            "held": [look.held for _, look in looks],
            "counted": [look.counted for _, look in looks],
            "lost": [look.lost for _, look in looks],
            "unseen": [self._unseen],
            "missing": missing,
            "came": came,
        }
        numbers = [look.numbers for _, look in looks]
        whole = torch.cat([part.to(numbers[0].device) for part in numbers])
        return Reading(labels, {"numbers": whole})

    def notices(self, columns: Columns) -> bool:
        """Whether something is not finite that was, or that is no mask."""
        return any(self._noticed.news(columns))

    def rows(self, step: Step, columns: Columns) -> Mapping[str, Columns]:
        """The faults that the last step did not have."""
        faults = [self._absent(step.step, name, came=False) for name in columns["missing"]]
        faults += [self._absent(step.step, name, came=True) for name in columns["came"]]
        parts = [columns[name] for name in ("when", "counted", "lost", "names", "held")]
        for when, counted, lost, names, held, broken in zip(
            *parts, self._told.news(columns), strict=True
        ):
            of = dict(zip(names, held, strict=True))
            for name, (infinite, nan) in broken.items():
                made_by = None
                if when == "before" and columns["unseen"][0]:
                    made_by = UNSEEN
                elif when == "after" and name in self._trained:
                    made_by = f"{name} gradient" if name in lost else self._maker(name)
                dtype, numel = of[name]
                faults.append(
                    Fault(
                        step.step,
                        self._slots[name].what if made_by in (None, UNSEEN) else "update",
                        name,
                        kind_of(infinite, nan),
                        dtype=dtype_name(dtype),
                        count=int(infinite + nan) if counted else None,
                        numel=numel,
                        producer=made_by,
                    )
                )
        return {"faults": fault_rows(faults)} if faults else {}

    def _is_due(self, name: str) -> bool:
        """Whether to look at it after a step."""
        slot = self._slots[name]
        if name in self._trained or slot.is_changed():
            return True
        x = slot.kept.get(slot.key)
        return slot.what == "buffer" and x is not None and x.numel() <= _ALWAYS

    def _look(self, names: Iterable[str]) -> list[_Look]:
        """A look on each device."""
        on: dict[torch.device, dict[str, Tensor]] = {}
        for name in names:
            x = self._slots[name].take()
            if x is not None:
                on.setdefault(x.device, {})[name] = x
        looks = []
        for tensors in on.values():
            looked = list(tensors)
            starts = [name for name in looked if self._slots[name].starts()]
            indices, numbers, counted = not_finite(list(tensors.values()))
            broken = [looked[index] for index in indices]
            trained = [name for name in broken if counted and name in self._trained]
            lost = [name for name in trained if self._slots[name].has_lost_gradient()]
            held = [self._slots[name].held for name in broken]
            looks.append(_Look(looked, starts, broken, held, numbers.flatten(), counted, lost))
        return looks

    def _absent(self, step: int, name: str, *, came: bool) -> Fault:
        numel = self._trained[name].numel()
        dtype = dtype_name(self._trained[name].dtype)
        count = 0 if came else numel
        return Fault(step, "gradient", name, "absent", dtype=dtype, count=count, numel=numel)

    def _maker(self, name: str) -> str:
        """The optimizer, and its ε where that is 0 in the dtype in which it is added."""
        parameter = self._trained[name]
        optimizer, eps = self._makers[id(parameter)]
        for one in eps if isinstance(eps, tuple | list) else (eps,):
            if not isinstance(one, float) or one <= 0:
                continue
            if not torch.tensor(one, dtype=parameter.dtype, device="cpu"):
                return f"{optimizer} (ε = {one:g} is 0 in {dtype_name(parameter.dtype)})"
        return optimizer


def _slots(model: nn.Module) -> dict[str, _Slot]:
    """A model's parameters and buffers by dotted name, a shared one once."""
    named: dict[str, _Slot] = {}
    seen: set[int] = set()
    for prefix, module in model.named_modules():
        for slot in (
            *(_Slot("parameter", module._parameters, key) for key in module._parameters),
            *(_Slot("buffer", module._buffers, key) for key in module._buffers),
        ):
            value = slot.kept[slot.key]
            if value is not None and id(value) not in seen:
                seen.add(id(value))
                named[clean_name(f"{prefix}.{slot.key}" if prefix else slot.key)] = slot
    return named
