"""`events="skipped"` in loops that are unlike the usual one: the training is as it would be."""

import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import pytest
import torch
from devices import DEVICES
from torch import Tensor, nn

import gradlab
from gradlab.config import Events
from gradlab.errors import GradlabError, GradlabWarning
from gradlab.probes import Headroom
from gradlab.probes.probe import Probe, Reading, Subject

BAD = 2
NEVER = 10**9


def model() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))


def factor(step: int) -> float:
    return math.inf if step == BAD else 1.0


def headroom(
    loop: Callable[[nn.Module, Any, int], object], make: Callable[[nn.Module], Any], events: Events
) -> list[Any]:
    """The rows of the bad step."""
    net = model()
    optimizers = make(net)
    with gradlab.attach(
        net, optimizers, probes=[Headroom(count=NEVER)], every=NEVER, events=events
    ) as probes:
        for step in range(BAD + 1):
            net.zero_grad()
            loop(net, optimizers, step)
    table = probes.table("headroom")
    columns = ["site", "direction", "max_abs", "headroom_bits"]
    return [[str(x) for x in row] for row in table[table["step"] == BAD][columns].values.tolist()]


def sgd(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(net.parameters(), lr=0.1)


def keeping_the_graph(net: nn.Module, optimizer: Any, step: int) -> None:
    out = net(torch.randn(3, 4)).sum()
    (out * factor(step)).backward(retain_graph=True)
    out.backward()
    optimizer.step()


def trying_too_large_a_batch(net: nn.Module, optimizer: Any, step: int) -> None:
    try:
        net(torch.randn(3, 5))
    except RuntimeError:
        out = net(torch.randn(3, 4)).sum()
    (out * factor(step)).backward()
    optimizer.step()


class OfADict(nn.Module):
    """Takes its batch in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = model()

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        out: Tensor = self.inner(batch["x"])
        return out


@pytest.mark.parametrize("loop", [keeping_the_graph, trying_too_large_a_batch])
def test_the_rows_are_those_of_a_step_that_was_looked_at(loop: Callable[..., None]) -> None:
    exact, skipped = (headroom(loop, sgd, events) for events in ("exact", "skipped"))
    assert skipped == exact
    assert exact


def test_a_dict_filled_anew_for_each_micro_batch() -> None:
    def sites(events: Events) -> list[Any]:
        net = OfADict()
        optimizer = sgd(net)
        with gradlab.attach(net, optimizer, every=NEVER, events=events) as probes:
            for step in range(BAD + 1):
                net.zero_grad()
                batch = {}
                for part in range(2):
                    batch["x"] = torch.randn(3, 4) * (factor(step) if part == 0 else 1.0)
                    net(batch).sum().backward()
                optimizer.step()
        return [tuple(row) for row in probes.table("faults")[["name", "kind"]].values.tolist()]

    exact, skipped = sites("exact"), sites("skipped")
    assert skipped == exact
    assert exact


@pytest.mark.parametrize("device", DEVICES)
def test_arguments_by_name_have_the_autocast_of_the_call(device: str) -> None:
    seen = []

    class Noting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            seen.append(torch.is_autocast_enabled(device))
            out: Tensor = self.inner(x)
            return out

    net = Noting().to(device)
    optimizer = sgd(net)
    with gradlab.attach(net, optimizer, every=NEVER, events="skipped"):
        for step in range(BAD + 1):
            net.zero_grad()
            with torch.autocast(device, torch.bfloat16):
                out = net(x=torch.randn(3, 4, device=device))
            (out * factor(step)).sum().backward()
            optimizer.step()
    assert len(seen) > BAD + 1
    assert all(seen)


def test_a_probe_of_another_cadence_sees_the_step_once() -> None:
    class Passes(Probe):
        table = "passes"
        columns: ClassVar = {"count": int}

        def open(self, subject: Subject) -> Any:
            yield subject.modules["0"].register_forward_hook(self._count)

        def begin(self, step: int) -> None:
            self.count = 0

        def after_step(self) -> Reading:
            return Reading({}, {"count": torch.tensor([self.count])})

        def _count(self, module: nn.Module, args: Any, output: Tensor) -> None:
            self.count += self.active

    net = model()
    optimizer = sgd(net)
    passes = Passes()
    passes.every = 1
    probes = [Headroom(), passes]
    with gradlab.attach(net, optimizer, probes=probes, every=NEVER, events="skipped") as recording:
        for step in range(BAD + 1):
            net.zero_grad()
            (net(torch.randn(3, 4)) * factor(step)).sum().backward()
            optimizer.step()
    assert set(recording.table("headroom")["step"]) == {0, BAD}
    assert recording.table("passes")["count"].tolist() == [1] * (BAD + 1)


def test_sparse_gradients() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(10, 4, sparse=True), nn.Linear(4, 2))
    optimizer = sgd(net)
    with gradlab.attach(net, optimizer, every=NEVER, events="skipped") as probes:
        for step in range(BAD + 1):
            net.zero_grad()
            (net(torch.randint(10, (3,))) * factor(step)).sum().backward()
            optimizer.step()
    assert set(probes.table("headroom")["step"]) == {0, BAD}


def test_gradients_without_numbers() -> None:
    net = nn.Linear(4, 2, device="meta")
    optimizer = sgd(net)
    probes = gradlab.attach(net, optimizer, every=2, events="skipped")
    for _ in range(3):
        net.zero_grad()
        net(torch.randn(3, 4, device="meta")).sum().backward()
        optimizer.step()
    with pytest.warns(GradlabWarning, match="meta"):
        probes.close()


def test_optimizers_that_step_within_the_backward_pass() -> None:
    """Made again there, the pass would step once more, under the one that still runs."""

    def weights(events: Events | None) -> list[Tensor]:
        net = model()
        each = {p: torch.optim.SGD([p], lr=0.1) for p in net.parameters()}

        def step_one(parameter: Any) -> None:
            each[parameter].step()
            each[parameter].zero_grad()

        for parameter in net.parameters():
            parameter.register_post_accumulate_grad_hook(step_one)
        probes = events and gradlab.attach(net, each.values(), every=NEVER, events=events)
        for step in range(BAD + 1):
            last = [
                p.register_hook(partial(torch.mul, other=factor(step)))
                for p in net[-1].parameters()
            ]
            net(torch.ones(3, 4)).sum().backward()
            for hook in last:
                hook.remove()
        if probes:
            probes.close()
        return [p.detach() for p in net.parameters()]

    bare = weights(None)
    with pytest.warns(GradlabWarning, match="step 2 could not be made again"):
        watched = weights("skipped")
    assert all(map(torch.equal, watched, bare))


def test_a_second_optimizer_that_skips() -> None:
    """By the time that it does, the first has stepped."""

    def run(events: Events) -> tuple[list[Any], list[bool]]:
        net = model()
        first = torch.optim.SGD(net[0].parameters(), lr=100.0)
        second = torch.optim.SGD(net[2:].parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
        with gradlab.attach(
            net, [first, second], scaler=scaler, every=NEVER, events=events, probes=[Headroom()]
        ) as probes:
            for step in range(BAD + 2):
                net.zero_grad()
                net[4].bias.register_hook(partial(torch.mul, other=factor(step)))
                scaler.scale(net(torch.randn(3, 4)).sum()).backward()
                scaler.step(first)
                scaler.step(second)
                scaler.update()
        table = probes.table("headroom")
        rows = table[table["step"] == BAD][["site", "direction", "max_abs"]].values.tolist()
        return rows, probes.table("steps")["skipped"].tolist()

    exact, skipped = run("exact"), run("skipped")
    assert skipped == exact
    assert exact[0]


def test_a_closure() -> None:
    """Before its first pass, the gradient that is there is the last one of the step before."""
    net = model()
    optimizer = torch.optim.LBFGS(net.parameters(), lr=0.1, max_iter=2)
    with (
        warnings.catch_warnings(record=True) as told,
        gradlab.attach(net, optimizer, every=NEVER, events="skipped") as probes,
    ):
        warnings.simplefilter("always")
        for step in range(BAD + 2):
            x = torch.randn(3, 4)

            def closure(x: Tensor = x, step: int = step) -> Tensor:
                optimizer.zero_grad()
                loss = net(x).square().sum() * factor(step)
                loss.backward()
                return loss

            optimizer.step(closure)
    assert [str(one.message).split(" the ")[0] for one in told] == ["at step 1"]
    assert probes.table("steps")["step"].tolist() == list(range(BAD + 2))


def test_without_an_optimizer_it_is_refused() -> None:
    with pytest.raises(GradlabError, match="give attach the optimizer"):
        gradlab.attach(model(), events="skipped")
