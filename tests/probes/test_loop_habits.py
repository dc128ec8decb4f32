"""What a loop does with gradients from step to step: never clears them, or trains not all."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gradlab
from gradlab.analyses.findings_loop import loop_findings
from gradlab.probes import GradientNorms
from gradlab.probes.attach import Probes

SGD = torch.optim.SGD


def kinds(probes: Probes) -> list[tuple[str, str, int]]:
    faults = probes.table("faults")
    return list(zip(faults["name"], faults["kind"], faults["step"], strict=True))


def by_data(model: nn.Module) -> None:
    """As old loops have it: torch does not count it."""
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad.data.zero_()


def by_none(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.grad = None


CLEARS: dict[str, Callable[[nn.Module], Any]] = {
    "to none": lambda m: m.zero_grad(set_to_none=True),
    "to zero": lambda m: m.zero_grad(set_to_none=False),
    "data": by_data,
    "none": by_none,
    "never": lambda m: None,
}


@pytest.mark.parametrize("passes", [1, 3])
@pytest.mark.parametrize("clips", [False, True])
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("how", CLEARS)
def test_gradients_that_are_never_cleared(how: str, after: bool, clips: bool, passes: int) -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    with gradlab.attach(model, optimizer, probes=[GradientNorms()]) as probes:
        for _ in range(6):
            if not after:
                CLEARS[how](model)
            for _ in range(passes):
                model(torch.randn(2, 3)).square().mean().backward()
            if clips:
                nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
            if after:
                CLEARS[how](model)
    assert kinds(probes) == ([("weight", "kept", 2)] if how == "never" else [])
    found = loop_findings(probes.table("faults"))
    assert ["zero_grad" in finding.sentence for finding in found] == [True] * (how == "never")
    assert not model.weight._backward_hooks


@pytest.mark.parametrize("set_to_none", [False, True])
def test_a_discriminator_into_which_the_generators_pass_goes(set_to_none: bool) -> None:
    """Its gradients of that pass are cleared before its own."""
    torch.manual_seed(0)
    model = nn.ModuleDict({"g": nn.Linear(2, 2), "d": nn.Linear(2, 1)})
    optimizers = {name: SGD(part.parameters(), lr=0.01) for name, part in model.items()}
    with gradlab.attach(model, optimizers.values(), probes=[GradientNorms()]) as probes:
        for _ in range(5):
            for name in ("d", "g"):
                optimizers[name].zero_grad(set_to_none=set_to_none)
                model["d"](model["g"](torch.randn(4, 2))).square().mean().backward()
                optimizers[name].step()
    assert kinds(probes) == []


@pytest.mark.filterwarnings("ignore:Using backward:UserWarning")  # for "graph"
@pytest.mark.parametrize("how", ["lbfgs", "closure", "graph", "unused", "skipped"])
def test_what_optimizers_and_scalers_do_is_no_habit_of_the_loop(how: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
    kind = torch.optim.LBFGS if how == "lbfgs" else SGD
    optimizer: Any = kind(model.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**4) if how == "skipped" else None

    def closure() -> Tensor:
        optimizer.zero_grad()
        x = torch.randn(2, 3) * (float("inf") if how == "skipped" else 1.0)
        loss = (model[1](x) if how == "unused" else model(x)).square().mean()
        (loss if scaler is None else scaler.scale(loss)).backward(create_graph=how == "graph")
        return loss

    with gradlab.attach(model, optimizer, scaler=scaler, probes=[GradientNorms()]) as probes:
        for _ in range(5):
            if how in ("lbfgs", "closure"):
                optimizer.step(closure)
                continue
            closure()
            if scaler is None:
                optimizer.step()
            else:
                scaler.step(optimizer)
                scaler.update()
    assert not set(probes.table("faults")["kind"]) & {"kept", "unheld"}


class Around(torch.optim.Optimizer):
    """Steps an optimizer that has a share of the work, as one does that shards it."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        super().__init__(parameters, {"lr": 0.1})
        self.optim = SGD(parameters[:1], lr=0.1)

    def step(self, closure: Any = None) -> Any:
        return self.optim.step(closure)


def with_a_head() -> nn.ModuleDict:
    torch.manual_seed(0)
    return nn.ModuleDict({"body": nn.Linear(3, 3), "head": nn.Linear(3, 1)})


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("left out", True),
        ("frozen", False),
        ("by another", False),
        ("unused", False),
        ("sharded", False),
        ("by hand", False),
    ],
)
@pytest.mark.parametrize("after", [False, True])
def test_parameters_that_no_optimizer_trains(how: str, told: bool, after: bool) -> None:
    model = with_a_head()
    model["head"].requires_grad_(how != "frozen")
    optimizer = (
        Around(list(model.parameters())) if how == "sharded" else SGD(model["body"].parameters(), 1)
    )
    other = SGD(model["head"].parameters() if how == "by another" else [nn.Parameter()], lr=0.1)
    with gradlab.attach(model, optimizer, probes=[GradientNorms()]) as probes:
        for _ in range(4):
            model.zero_grad()
            x = model["body"](torch.randn(2, 3))
            (x if how == "unused" else model["head"](x)).square().mean().backward()
            if not after:
                other.step()
            optimizer.step()
            if after:
                other.step()
            if how == "by hand":
                with torch.no_grad():
                    for parameter in model["head"].parameters():
                        parameter -= 0.1 * parameter.grad
    names = ["head.weight", "head.bias"] if told else []
    assert kinds(probes) == [(name, "unheld", 1) for name in names]
    found = loop_findings(probes.table("faults"))
    assert [finding.what for finding in found] == ["not trained"] * told
    assert not told or "head.weight, head.bias get gradients" in found[0].sentence
