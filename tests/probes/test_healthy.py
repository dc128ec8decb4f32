"""A training that is well is told to be so in a line, whatever the model and the precision."""

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gradlab
from gradlab.analyses.finding import Finding
from gradlab.pages.inspection import Inspection
from gradlab.probes import (
    GradientNorms,
    Headroom,
    LearnedScales,
    OptimizerHealth,
    StateHealth,
)


class Scaled(nn.Module):
    """A learned scale, as LayerScale has it."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        return self.gamma * x


MODELS = {
    "mlp": lambda: nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 4)),
    "batch norm": lambda: nn.Sequential(
        nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 4)
    ),
    "scaled": lambda: nn.Sequential(nn.Linear(8, 8), Scaled(), nn.Tanh(), nn.Linear(8, 4)),
}


def trained(
    model: nn.Module, *, every: int = 1, fp16: bool = False, spoil: bool = False
) -> list[Finding]:
    """What is found of twelve steps; spoilt, an input of one of them is NaN."""
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    probes = [GradientNorms(), Headroom(), OptimizerHealth(), StateHealth()]
    if any(isinstance(module, Scaled | nn.LayerNorm) for module in model.modules()):
        probes.append(LearnedScales())
    generator = torch.Generator().manual_seed(0)
    with gradlab.attach(model, optimizer, probes=probes, every=every) as attached:
        for step in range(12):
            x = torch.randn(16, 8, generator=generator)
            target = x[:, :4].argmax(1)
            if spoil and step == 7:
                x[3, 2] = torch.nan
            optimizer.zero_grad()
            with gradlab.emulated_fp16() if fp16 else nullcontext():
                out = model(x)
            loss = F.cross_entropy(out.float(), target)
            loss.backward()
            attached.loss(loss)
            optimizer.step()
    return list(gradlab.inspect(attached.run()).findings)


def stands_out(found: list[Finding]) -> list[str]:
    return [finding.what for finding in found if not finding.is_fact]


@pytest.mark.parametrize("every", [1, 5])
@pytest.mark.parametrize("fp16", [False, True])
@pytest.mark.parametrize("kind", MODELS)
def test_nothing_is_found_of_a_healthy_run(kind: str, fp16: bool, every: int) -> None:
    torch.manual_seed(0)
    found = trained(MODELS[kind](), every=every, fp16=fp16)
    assert [what for what in stands_out(found) if what != "not recorded"] == ["findings"]
    numbers = {finding.what for finding in found if finding.is_fact}
    assert {"run", "end", "loss", "least headroom", "updates"} <= numbers


@pytest.mark.parametrize("every", [1, 5])
def test_one_spoilt_batch_is_found(every: int) -> None:
    torch.manual_seed(0)
    found = stands_out(trained(MODELS["mlp"](), every=every, spoil=True))
    assert "findings" not in found
    assert {"input not finite", "loss not finite"} <= set(found)


def test_the_numbers_have_a_heading_of_their_own() -> None:
    numbers = Finding("updates", "0.1 at step 2.", is_fact=True)
    alarm = Finding("loss not finite", "At step 3.")
    end = Finding("end", "Recorded.", is_fact=True)
    lines = str(Inspection([end, alarm, numbers, numbers])).splitlines()
    assert [line.split("  ")[0] for line in lines if line] == [
        "end", "loss not finite", "In numbers, as of every run", "updates", "updates",
    ]  # fmt: skip
    assert "In numbers" not in str(Inspection([end, alarm]))
