"""How far the optimizer moves each parameter, and where Adam's ε takes over."""

import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from gradlab.errors import GradlabError
from gradlab.probes.cadence import Cadence
from gradlab.probes.distributed.shards import over_shards
from gradlab.probes.gradient_statistics import gradient_statistics
from gradlab.probes.probe import Columns, Probe, Reading, Subject
from gradlab.probes.roles import role
from gradlab.probes.selection import Patterns, select

_MOMENTS = ("max_exp_avg_sq", "exp_avg_sq")  # AMSGrad divides by the first


_UNCORRECTED = (torch.optim.RAdam, torch.optim.SparseAdam)
"""Add ε to √v, and correct the bias of both."""


class OptimizerHealth(Probe):
    """RMS of each parameter and of its update, and the share of entries whose √v̂ is below ε.

    ε is what the optimizer adds: 0 where it rounds to 0 in the type of v. The update is what the
    step added: 0 where it was skipped. Where √v̂ < ε, Adam's update shrinks with the gradient as
    plain gradient descent's does. Each look keeps a copy of the parameters over the step.

    Args:
        params: Patterns over the parameters' names.
        every: Cadence; None for that of `attach`.
    """

    table = "optimizer"
    exact = True

    def __init__(self, params: Patterns = "*", *, every: Cadence | None = None) -> None:
        self.every = every
        self._patterns = params

    def open(self, subject: Subject) -> Iterable[RemovableHandle]:
        """Choose the parameters.

        Raises:
            GradlabError: No optimizer trains any of them.
        """
        chosen = select(subject.parameters, self._patterns, "parameters")
        self._trained = {name: subject.trained[name] for name in chosen if name in subject.trained}
        if not self._trained:
            raise GradlabError("OptimizerHealth needs the optimizer: give it to attach.")
        self._on: dict[torch.device, list[int]] = {}
        for index, parameter in enumerate(self._trained.values()):
            self._on.setdefault(parameter.device, []).append(index)
        # Kept on the devices: a copy from the host at every step would wait for it.
        sizes = [float(parameter.numel()) for parameter in self._trained.values()]
        self._sizes = {
            device: torch.tensor([sizes[at] for at in here], dtype=torch.float64, device=device)
            for device, here in self._on.items()
        }
        self._groups = {
            id(parameter): (optimizer, group)
            for optimizer in subject.optimizers
            for group in optimizer.param_groups
            for parameter in group["params"]
        }
        self._labels: Columns = {
            "param": list(self._trained),
            "layer": [role(name)[0] for name in self._trained],
            "op": [role(name)[1] for name in self._trained],
        }
        return ()

    def begin(self, step: int) -> None:
        """Forget the last step's."""
        self._before: list[Tensor] = []

    def before_step(self) -> None:
        """Keep the parameters as they are."""
        self._before = [parameter.detach().clone() for parameter in self._trained.values()]

    def after_step(self) -> Reading | None:
        """A row for each parameter; none if the step never came to the optimizer."""
        if not self._before:
            return None
        parameters = [parameter.detach() for parameter in self._trained.values()]
        updates = [now - before for now, before in zip(parameters, self._before, strict=True)]
        self._before = []
        values = {
            "param_rms": self._rms(parameters),
            "update_rms": self._rms(updates),
            "eps_frac": _together([self._eps_frac(p) for p in self._trained.values()]),
        }
        return Reading(self._labels, values)

    def _rms(self, tensors: Sequence[Tensor]) -> Tensor:
        """Root of the mean square of each, float64."""
        found: list[Tensor] = [tensors[0]] * len(tensors)
        for device, here in self._on.items():
            squares = over_shards([tensors[at] for at in here], gradient_statistics)[:, 1]
            rms = (squares / self._sizes[device]).sqrt()
            for at, value in zip(here, rms.unbind(), strict=True):
                found[at] = value
        return _together(found)

    def _eps_frac(self, parameter: Tensor) -> Tensor:
        optimizer, group = self._groups[id(parameter)]
        state = optimizer.state.get(parameter, {})
        second = next((state[name] for name in _MOMENTS if name in state), None)
        taken = state.get("step", group.get("step"))  # some count once for the whole group
        eps, betas = group.get("eps"), cast(Any, group.get("betas"))
        is_known = isinstance(eps, Real) and isinstance(betas, tuple | list) and len(betas) > 1
        if second is None or taken is None or not is_known:  # as CAME has two ε
            return torch.full((), math.nan, dtype=torch.float64, device=parameter.device)
        # √(v / (1 − β₂ᵗ)) < ε, squared: v is never negative. The step may lie on the host.
        held = taken if isinstance(taken, Tensor) else torch.tensor(taken, device="cpu")
        step = held.double()
        is_corrected = not isinstance(optimizer, _UNCORRECTED)
        corrected = 1 - betas[1] ** step if is_corrected else torch.ones_like(step)
        bound = corrected * _added(group, second.dtype.to_real()) ** 2
        below = over_shards([second], lambda shards: _count_below(shards[0], bound))
        # Of a complex one, the parts.
        share: Tensor = below[0, 0] / (second.numel() * (2 if second.is_complex() else 1))
        return share


def _added(group: Mapping[str, Any], dtype: torch.dtype) -> float:
    """The ε that is added to √v̂: in v's type, where one of 1e-8 is 0 if that is FP16.

    Fused kernels add it in FP32, and capturable ones, divided by the learning rate.
    """
    eps = float(group["eps"])
    if group.get("fused") or group.get("capturable"):
        return eps
    return float(torch.tensor(eps, dtype=dtype, device="cpu"))


def _count_below(values: Tensor, bound: Tensor) -> Tensor:
    """(1, 4), as `over_shards` takes it: how many values lie below the bound, and zeros."""
    values = torch.view_as_real(values) if values.is_complex() else values
    wide = torch.promote_types(values.dtype, torch.float32)  # ε² is 0 in FP16
    count = (values.to(wide) < bound.to(wide)).sum().double()
    return torch.stack([count, *torch.zeros(3, dtype=count.dtype, device=count.device)])[None]


def _together(values: Sequence[Tensor]) -> Tensor:
    """0-dim tensors as one, on the first one's device."""
    return torch.stack([value.to(values[0].device) for value in values])
