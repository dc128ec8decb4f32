"""Passes made again give every parameter the gradient that it had, to the bit."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradlab.probes.operations.calls import Calls


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.dropout, self.second = nn.Linear(4, 6), nn.Dropout(0.5), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hidden = self.dropout(self.first(x).relu())
        logits = self.second(hidden)
        return logits.square().mean(), logits, hidden


def of_an_outer_output(model: nn.Module, x: Tensor) -> None:
    model(x)[0].backward()


def of_inner_outputs_too(model: nn.Module, x: Tensor) -> None:
    loss, logits, hidden = model(x)
    (loss + 3 * logits.exp().mean() + hidden.sum()).backward()


def of_several_calls_at_once(model: nn.Module, x: Tensor) -> None:
    torch.stack([model(x + shift)[0] for shift in range(4)]).sum().backward()


def of_several_passes(model: nn.Module, x: Tensor) -> None:
    loss, logits, _ = model(x)
    other = model(2 * x)[0]
    loss.backward(retain_graph=True)
    (logits.sum() + other).backward()
    model(3 * x)[0].backward()


def of_a_call_on_another(model: nn.Module, x: Tensor) -> None:
    logits = model(x)[1]
    model(logits)[0].backward()


def with_modes_between(model: nn.Module, x: Tensor) -> None:
    model.eval()
    model(x)[0].backward()
    model.train()
    model(x)[0].backward()
    model.eval()


def with_autocast_around_the_forward_pass(model: nn.Module, x: Tensor) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(x)[0]
    loss.backward()


def with_autocast_around_both(model: nn.Module, x: Tensor) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        loss, logits, _ = model(x)
        (loss + (logits @ logits.mT).mean()).backward()


@pytest.mark.parametrize(
    "loop",
    [
        of_an_outer_output,
        of_inner_outputs_too,
        of_several_calls_at_once,
        of_several_passes,
        of_a_call_on_another,
        with_modes_between,
        with_autocast_around_the_forward_pass,
        with_autocast_around_both,
    ],
)
def test_gradients_are_those_of_the_loop(loop: Callable[[nn.Module, Tensor], None]) -> None:
    torch.manual_seed(0)
    model = Net()
    seen: dict[str, Tensor] = {}

    def note(name: str) -> Callable[[Any], None]:
        def on_gradient(parameter: Any) -> None:
            seen[name] = parameter.grad.clone()

        return on_gradient

    for name, parameter in model.named_parameters():
        parameter.register_post_accumulate_grad_hook(note(name))
    calls = Calls(model)
    handles = list(calls.hooks())
    calls.begin()
    loop(model, torch.randn(3, 4))
    wanted, modes = dict(seen), [module.training for module in model.modules()]
    seen.clear()
    assert calls.repeat()
    for handle in handles:
        handle.remove()
    assert wanted.keys() == seen.keys()
    for name, gradient in wanted.items():
        assert torch.equal(seen[name], gradient), name
    assert [module.training for module in model.modules()] == modes
