"""Whose step, which gradient: unusual optimizers and loops, against what a plain loop gives."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import gradlab
from gradlab.analyses.findings_loop import loop_findings
from gradlab.errors import GradlabWarning
from gradlab.probes import GradientNorms, Headroom, OptimizerHealth

SGD = torch.optim.SGD


class Calls(SGD):
    """Goes through torch's wrapper twice, and more: each class's `step` has one of its own."""

    def step(self, closure: Any = None) -> Any:
        return super().step(closure)


class CallsAgain(Calls):
    def step(self, closure: Any = None) -> Any:
        return super().step(closure)


class Lookahead(torch.optim.Optimizer):
    """Every second step goes half of the way back."""

    def __init__(self, inner: torch.optim.Optimizer) -> None:
        super().__init__(inner.param_groups, {})
        self.inner = inner
        self.steps = 0

    def step(self, closure: Any = None) -> Any:
        result = self.inner.step(closure)
        self.steps += 1
        return result


class Bare(torch.optim.Optimizer):
    """As Accelerate's: an optimizer by its class, that never called its `__init__`."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        self.param_groups = optimizer.param_groups

    def step(self, closure: Any = None) -> Any:
        return self.optimizer.step(closure)


def of(parameters: Iterator[nn.Parameter], kind: str) -> torch.optim.Optimizer:
    for each in (SGD, Calls, CallsAgain):
        each([nn.Parameter(torch.ones(1))])  # torch wraps a class's step at its first instance
    if kind == "wrapped twice":
        return Lookahead(Lookahead(Calls(parameters, lr=0.1)))
    kinds: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
        "plain": lambda p: SGD(p, lr=0.1),
        "calls": lambda p: Calls(p, lr=0.1),
        "calls again": lambda p: CallsAgain(p, lr=0.1),
        "lookahead": lambda p: Lookahead(SGD(p, lr=0.1)),
        "bare": lambda p: Bare(Calls(p, lr=0.1)),
        "bare around lookahead": lambda p: Bare(Lookahead(SGD(p, lr=0.1))),
    }
    return kinds[kind](parameters)


KINDS = ["calls", "calls again", "lookahead", "wrapped twice", "bare", "bare around lookahead"]


def trained(
    kind: str, *, scaler: bool = False, closure: bool = False, schedule: bool = False
) -> Any:
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optimizer = of(model.parameters(), kind)
    scaling = torch.amp.GradScaler("cpu", init_scale=4.0) if scaler else None
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5) if schedule else None
    with gradlab.attach(
        model, optimizer, scaler=scaling, probes=[GradientNorms(), OptimizerHealth()]
    ) as probes:
        for step in range(4):

            def backward(step: int = step) -> Tensor:
                model.zero_grad()
                loss = model(torch.ones(2, 3)).square().mean()
                if step == 2 and scaling is not None:
                    loss = loss * math.inf
                (loss if scaling is None else scaling.scale(loss)).backward()
                return loss

            probes.loss(float(step))
            if closure:
                optimizer.step(backward)
            else:
                backward()
                if scaling is None:
                    optimizer.step()
                else:
                    scaling.step(optimizer)
                    scaling.update()
            if scheduler is not None:
                scheduler.step()
    return probes


@pytest.mark.parametrize("options", [{}, {"scaler": True}, {"closure": True}, {"schedule": True}])
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_counts_once(kind: str, options: dict[str, bool]) -> None:
    if kind.startswith("bare") and options.get("schedule"):
        pytest.skip("a schedule needs an optimizer that has called its __init__")
    found, expected = trained(kind, **options), trained("plain", **options)
    for table in ("steps", "grad_norms", "optimizer"):
        of_it, plain = found.table(table), expected.table(table)
        of_it, plain = (t.drop(columns="seconds", errors="ignore") for t in (of_it, plain))
        assert of_it.equals(plain), table
    assert found.table("steps")["loss"].tolist() == [0, 1, 2, 3]


def test_a_step_that_raises_leaves_the_next_its_own() -> None:
    class Fails(SGD):
        fails = True

        def step(self, closure: Any = None) -> Any:
            result = super().step(closure)
            if self.fails:
                raise ValueError("once")
            return result

    SGD([nn.Parameter(torch.ones(1))])
    model = nn.Linear(1, 1)
    optimizer = Fails(model.parameters(), lr=0.1)
    with gradlab.attach(model, optimizer) as probes:
        for fails in (True, False, False):
            optimizer.fails = fails
            optimizer.zero_grad()
            model(torch.ones(1, 1)).sum().backward()
            try:
                optimizer.step()
            except ValueError:
                optimizer.zero_grad()
    assert len(probes.table("steps")) in (2, 3)  # the failed one is no step, or one with the next


def in_the_backward_pass(*, first: bool, groups: list[list[int]], unused: bool) -> Any:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1), nn.Linear(1, 1))
    parameters = list(model.parameters())
    optimizers = [SGD([parameters[at] for at in group], lr=0.1) for group in groups]

    def put_hooks() -> None:
        for group, optimizer in zip(groups, optimizers, strict=True):
            missing: set[int] = set()

            def step(_: Tensor, group: Any = group, o: Any = optimizer, m: Any = missing) -> None:
                m.add(len(m))
                if len(m) == len(group):
                    m.clear()
                    o.step()
                    o.zero_grad()

            for at in group:
                parameters[at].register_post_accumulate_grad_hook(step)

    if first:
        put_hooks()
    with gradlab.attach(model, optimizers, probes=[GradientNorms(), Headroom()]) as probes:
        if not first:
            put_hooks()
        for step in range(3):
            probes.loss(float(step))
            (model[:3] if unused else model)(torch.randn(2, 4)).square().mean().backward()
    return probes


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("unused", [False, True])
@pytest.mark.parametrize("groups", [[[0], [1], [2], [3], [4], [5]], [[0, 1], [2, 3], [4, 5]]])
def test_optimizers_that_step_within_the_backward_pass(
    first: bool, unused: bool, groups: list[list[int]]
) -> None:
    def plainly() -> dict[tuple[int, str], float]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1), nn.Linear(1, 1))
        optimizer = SGD(model.parameters(), lr=0.1)
        norms = {}
        for step in range(3):
            optimizer.zero_grad()
            (model[:3] if unused else model)(torch.randn(2, 4)).square().mean().backward()
            for name, p in model.named_parameters():
                if p.grad is not None:
                    norms[step, name] = p.grad.double().norm().item()
            optimizer.step()
        return norms

    probes = in_the_backward_pass(first=first, groups=groups, unused=unused)
    rows = probes.table("grad_norms")
    found = {(r.step, r.param): r.grad_l2 for r in rows.itertuples()}
    assert found == pytest.approx(plainly(), rel=1e-5)
    assert probes.table("steps")["loss"].tolist() == [0, 1, 2]


CHANGES: dict[str, Callable[[nn.Module], Any]] = {
    "clipped": lambda m: nn.utils.clip_grad_norm_(m.parameters(), 1e-3),
    "by value": lambda m: nn.utils.clip_grad_value_(m.parameters(), 1e-3),
    "scaled": lambda m: [p.grad.mul_(0.5) for p in m.parameters() if p.grad is not None],
    "zeroed": lambda m: m.zero_grad(set_to_none=False),
    "cleared": lambda m: m.zero_grad(set_to_none=True),
    "not at all": lambda _: None,
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("last", [False, True])
def test_gradients_changed_between_passes_are_told_of_once(change: str, last: bool) -> None:
    """After the last pass a loop may do with them as it likes."""
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optimizer = SGD(model.parameters(), lr=0.1)
    probes = gradlab.attach(model, optimizer)

    def loop() -> None:
        for _ in range(3):
            optimizer.zero_grad()
            for micro in range(3):
                model(torch.randn(2, 3)).sum().backward()
                if (micro == 2) == last:
                    CHANGES[change](model)
            optimizer.step()
        probes.close()

    if last or change == "not at all":
        loop()
        assert probes.table("faults").empty
        return
    with pytest.warns(GradlabWarning, match="between micro-batches") as said:
        loop()
    assert len(said) == 1
    faults = probes.table("faults")
    assert set(zip(faults["name"], faults["kind"], faults["step"], strict=True)) == {
        ("weight", "changed", 0),
        ("bias", "changed", 0),
    }
    (finding,) = loop_findings(faults)
    assert "the backward passes of step 0" in finding.sentence


@pytest.mark.filterwarnings("ignore:Using backward:UserWarning")  # for "graph"
@pytest.mark.parametrize("how", ["closure", "graph", "reentrant", "tied", "sparse"])
def test_what_torch_itself_does_to_gradients_is_no_change(how: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(5, 3, sparse=how == "sparse"), nn.Linear(3, 3))
    optimizer = SGD(model.parameters(), lr=0.1)

    def backward() -> Tensor:
        x = model[0](torch.tensor([1, 2, 1]))
        if how == "reentrant":
            x = checkpoint(
                model[1], checkpoint(model[1], x, use_reentrant=True), use_reentrant=True
            )
        else:
            x = model[1](model[1](x)) if how == "tied" else model[1](x)
        x.square().sum().backward(create_graph=how == "graph")
        return x

    with gradlab.attach(model, optimizer) as probes:
        for _ in range(2):
            optimizer.zero_grad()
            if how == "closure":

                def closure() -> Tensor:
                    optimizer.zero_grad()
                    backward()
                    return backward()

                optimizer.step(closure)  # type: ignore[arg-type]
            else:
                backward()
                backward()
                optimizer.step()
    assert probes.table("faults").empty
