"""Why a parameter got no gradient: whether its module was called, and from when on."""

import pytest
import torch
from torch import Tensor, nn

import gradlab


class Experts(nn.Module):
    """One that is always used, one that is used at first, one never, one whose path is cut."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList([nn.Linear(4, 4) for _ in range(4)])
        self.steps = 0

    def forward(self, x: Tensor) -> Tensor:
        always, first, _, cut = self.experts
        y = always(x) + cut(x).detach()
        y = y + first(x) if self.steps < 30 else y
        self.steps += 1
        return y


@pytest.mark.parametrize("every", [1, 10])
def test_four_experts(every: int) -> None:
    torch.manual_seed(0)
    model = Experts()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    with gradlab.attach(model, optimizer, every=every) as probes:
        for _ in range(100):
            model.zero_grad()
            model(torch.randn(3, 4)).square().mean().backward()
            optimizer.step()
    found = {f.what: f.sentence for f in gradlab.inspect(probes.run()).findings if not f.is_fact}
    never, ended = found["no gradient"], found["no gradient any more"]
    assert never.startswith("4 of 8 trained parameters never got a gradient: experts.2.weight")
    assert "experts.2 was not called" in never
    assert "experts.3 was called, but" in never
    assert ended.startswith("2 of 4 parameters got no gradient any more since step 2")
    assert "experts.1 was not called again" in ended
    assert "experts.0" not in never + ended
