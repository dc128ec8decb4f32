"""How many operations a GPU is asked for: on the meta device, with kernels that are one each."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import gradlab
from gradlab.errors import GradlabWarning
from gradlab.probes import GradientNorms, Headroom, LearnedScales, Probe, StateHealth, fused


class Operations(TorchDispatchMode):
    """Counts them."""

    count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def statistics(entries: Sequence[Tensor]) -> Tensor:
    return torch.empty(len(entries), 7, dtype=torch.float64, device=entries[0].device)


def asked_for(layers: int, probes: list[Probe] | None, **arguments: Any) -> int:
    """Of a step of a model with so many layers."""
    blocks = [nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)) for _ in range(layers)]
    model = nn.Sequential(*blocks).to("meta", torch.float16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, foreach=True)
    x = torch.ones(2, 4, device="meta", dtype=torch.float16)

    def step() -> None:
        optimizer.zero_grad()
        model(x).sum().backward()
        optimizer.step()

    if probes is None:
        with Operations() as counted:
            step()
        return counted.count
    attached = gradlab.attach(model, optimizer, probes=probes, window=100, **arguments)
    for _ in range(2):  # what a first step asks for it asks for once
        step()
    with Operations() as counted:
        step()
    with pytest.warns(GradlabWarning, match="hold no numbers"):
        attached.close()
    return counted.count


@pytest.mark.slow  # torch imports what computes shapes
@pytest.mark.parametrize(
    ("probe", "a_layer", "in_all"),
    [
        (GradientNorms, 0, 20),
        (StateHealth, 0, 40),
        (lambda: LearnedScales(every=1), 2, 20),  # each norm's are a view, in one copy of all
        # Three sites, two of them looked at: an output is detached first. No parameter's gradient.
        (lambda: Headroom(count=10**9), 2 * 3, 40),
        (lambda: Headroom(count=1), 2 * 5, 60),
    ],
)
def test_they_grow_with_the_sites_alone(
    probe: Callable[[], Probe], a_layer: int, in_all: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused, "takes", lambda x: True)
    monkeypatch.setattr(fused, "statistics", statistics)
    monkeypatch.setattr(fused, "details", lambda x: torch.empty(5, device="meta"))
    extra = {n: asked_for(n, [probe()]) - asked_for(n, None) for n in (3, 6)}
    assert extra[6] - extra[3] <= 3 * a_layer
    assert extra[3] <= 3 * a_layer + in_all


@pytest.mark.slow
def test_a_step_that_is_left_out_asks_for_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "statistics", statistics)
    left_out = asked_for(6, [GradientNorms(), Headroom()], every=10**9, events="skipped")
    assert left_out - asked_for(6, None) <= 10
