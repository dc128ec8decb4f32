"""Several optimizers: which passes and which numbers belong to a step."""

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn

import gradlab
from gradlab.probes import GradientNorms, Headroom, OptimizerHealth, Probe


class Gan(nn.Module):
    """Two models that a loop calls by themselves, never as one."""

    def __init__(self) -> None:
        super().__init__()
        self.made, self.judged = nn.Linear(2, 2), nn.Linear(2, 1)


def probes() -> list[Probe]:
    return [GradientNorms(), OptimizerHealth()]


def test_parts_that_take_turns_make_a_step_each() -> None:
    torch.manual_seed(0)
    model = Gan()
    judge = torch.optim.SGD(model.judged.parameters(), lr=0.1)
    maker = torch.optim.SGD(model.made.parameters(), lr=0.2)
    expected: list[dict[str, float]] = []

    def step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        model.zero_grad()
        loss.backward()
        # The judge's gradient of the maker's loss is no gradient that a step is taken with.
        held = {id(p) for p in optimizer.param_groups[0]["params"]}
        own = [(n, p.grad) for n, p in model.named_parameters() if id(p) in held]
        expected.append({n: grad.abs().sum().item() for n, grad in own if grad is not None})
        optimizer.step()

    with gradlab.attach(model, [judge, maker], probes=probes()) as attached:
        for _ in range(3):
            real, noise = torch.randn(2, 3, 2)
            made = model.made(noise).detach()
            step(judge, (model.judged(made) - model.judged(real)).mean())
            step(maker, -model.judged(model.made(noise)).mean())
    norms = attached.table("grad_norms")
    assert attached.table("steps")["step"].tolist() == list(range(6))
    for index, gradients in enumerate(expected):
        found = norms[norms["step"] == index].set_index("param")["grad_l1"].to_dict()
        assert found == pytest.approx(gradients, rel=1e-5)
    moved = attached.table("optimizer").query("update_rms > 0")
    assert moved.query("step % 2 == 0")["param"].str.startswith("judged").all()
    assert moved.query("step % 2 == 1")["param"].str.startswith("made").all()


def test_the_learning_rate_is_the_step_s_own() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    often, seldom = (torch.optim.SGD(part.parameters(), lr=1.0) for part in model)
    schedule = torch.optim.lr_scheduler.StepLR(often, 1, gamma=0.5)
    with gradlab.attach(model, [often, seldom], probes=probes()) as attached:
        for step in range(4):
            model(torch.ones(1, 2)).sum().backward()
            often.step()
            if step == 3:
                seldom.step()
            schedule.step()
    assert attached.table("steps")["lr"].tolist() == [1.0, 0.5, 0.25, 0.125]


def test_each_with_a_closure_of_its_own() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    optimizers = [torch.optim.SGD(part.parameters(), lr=0.1) for part in model]

    def closure() -> float:
        model.zero_grad()
        loss = model(torch.ones(1, 2)).sum()
        loss.backward()
        return float(loss.detach())

    with gradlab.attach(model, optimizers, probes=probes()) as attached:
        for _ in range(2):
            for optimizer in optimizers:
                optimizer.step(closure)
    assert attached.table("steps")["step"].tolist() == [0, 1, 2, 3]
    moved = attached.table("optimizer").query("update_rms > 0")
    for step in range(4):
        of = moved[moved["step"] == step]["param"]
        assert len(of) > 0
        assert of.str.startswith(str(step % 2)).all()


class Log(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.log(x)


def test_a_step_that_raised_is_over_by_the_next_pass() -> None:
    """The next one is looked at before it steps, not as its passes begin."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False), Log(), nn.Linear(2, 1))
    nn.init.ones_(model[0].weight)
    optimizers = [torch.optim.SGD(part.parameters(), lr=0.0) for part in (model[0], model[2])]

    def fails() -> float:
        raise ValueError("no")

    with gradlab.attach(model, optimizers, probes=[Headroom()]) as attached:
        for step in range(2):
            model(torch.full((1, 2), -1.0 if step else 1.0)).sum().backward()
            optimizers[0].step()
            with pytest.raises(ValueError, match="no") if not step else nullcontext():
                optimizers[1].step(None if step else fails)
    faults = attached.table("faults")
    assert faults[faults["step"] == 1]["function"].str.startswith("torch.log").any()
