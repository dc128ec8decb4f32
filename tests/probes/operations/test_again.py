"""A step's calls are made again without a trace: of that, training must not know."""

import gc
import random
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import gradlab
from gradlab.config import Events
from gradlab.probes import Headroom
from gradlab.probes.attach import Probes


class Log(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.log()


class Model(nn.Module):
    """A linear map, and a function of what it gives that makes NaN."""

    def __init__(self, act: Callable[..., Any] = lambda: None) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.log = Log()
        self.act = act

    def forward(self, x: Tensor, *more: Any) -> Tensor:
        self.act(*more)
        logs: Tensor = self.log(self.linear(x) - 100)
        return logs


@contextmanager
def attached(
    model: nn.Module, *, every: int = 1, events: Events = "exact"
) -> Iterator[tuple[Probes, torch.optim.Optimizer]]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    probes = [Headroom()]
    with gradlab.attach(model, optimizer, probes=probes, every=every, events=events) as recording:
        yield recording, optimizer


def one_step(model: nn.Module, *inputs: Any) -> Probes:
    with attached(model) as (probes, optimizer):
        model(*inputs).sum().backward()
        optimizer.step()
    return probes


def test_what_fails_the_second_time_ends_no_training() -> None:
    calls = iter([None])  # outside of what is copied
    probes = one_step(Model(lambda: next(calls)), torch.ones(2, 4))
    assert probes.table("faults")["kind"].tolist() == ["nan"]
    assert probes.table("faults")["function"].isna().all()


def drawn_everywhere() -> tuple[float, ...]:
    return random.random(), np.random.rand(), torch.rand(()).item()  # noqa: NPY002


def seed_everything() -> None:
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)


def test_the_random_generators_go_on_as_if_nothing_had_been_made_again() -> None:
    first: list[tuple[float, ...]] = []
    model = Model(lambda: first.append(drawn_everywhere()))
    seed_everything()
    one_step(model, torch.ones(2, 4))
    after = drawn_everywhere()
    seed_everything()
    assert first == [drawn_everywhere()] * 2  # once more, and the same
    assert after == drawn_everywhere()


class Seen:
    count = 0


def test_arguments_that_the_model_changes_are_not_changed_again() -> None:
    generator, twin = (torch.Generator().manual_seed(0) for _ in range(2))

    def act(generator: torch.Generator, seen: Seen) -> None:
        torch.rand((), generator=generator)
        seen.count += 1

    cache = Seen()
    one_step(Model(act), torch.ones(2, 4), generator, cache)
    torch.rand((), generator=twin)
    assert torch.rand((), generator=generator) == torch.rand((), generator=twin)
    assert cache.count == 1


def test_a_parameter_outside_of_the_model_is_given_its_gradient_once() -> None:
    outside = nn.Parameter(torch.ones(4))

    class Prompted(Model):
        def forward(self, x: Tensor, *more: Any) -> Tensor:
            hidden: Tensor = self.linear(x)
            self.log(hidden - 100)  # NaN that goes nowhere
            return hidden * outside

    model = Prompted()
    with attached(model) as (probes, optimizer):
        model(torch.ones(2, 4)).sum().backward()
        assert outside.grad is not None
        gradient = outside.grad.clone()
        optimizer.step()
    assert len(probes.table("faults"))
    assert torch.equal(outside.grad, gradient)


def test_inputs_made_in_inference_mode_can_be_used() -> None:
    class Copies(Model):
        def forward(self, x: Tensor, *more: Any) -> Tensor:
            return super().forward(self.flat(x).clone())

    model = Copies()
    model.flat = nn.Flatten()
    with torch.inference_mode():
        x = torch.ones(2, 2, 2)
    assert "log" in one_step(model, x).table("faults")["function"][0]


@pytest.mark.parametrize("events", ["exact", "sampled"])
def test_a_finite_micro_batch_is_not_kept(events: Events) -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    kept = []
    with attached(model, every=2, events=events) as (_, optimizer):
        for _ in range(2):
            for _ in range(3):
                x = torch.ones(2, 4)
                output = model(x)
                output.register_hook(lambda g: kept.append(weakref.ref(g)))
                kept.append(weakref.ref(x))
                output.square().sum().backward()
                del x, output
                gc.collect()
                assert [ref for ref in kept if ref() is not None] == []
            optimizer.step()


def test_the_micro_batch_that_was_not_finite_is_found_among_others() -> None:
    model = Model()
    with attached(model) as (probes, optimizer):
        for offset in (1e3, 1e3, 0.0, 1e3):
            model(torch.full((2, 4), 1.0))  # a look without a backward pass
            with torch.no_grad():
                model.linear.bias.fill_(offset)
            model(torch.ones(2, 4)).sum().backward()
        with torch.no_grad():
            model.linear.bias.fill_(0.0)
        optimizer.step()
    assert "log" in probes.table("faults")["function"][0]
