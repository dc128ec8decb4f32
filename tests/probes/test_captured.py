"""What a CUDA graph captures is left out, and said once."""

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import nn

import gradlab
from gradlab.errors import GradlabWarning
from gradlab.probes import GradientNorms, Headroom, StateHealth

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore:The AccumulateGrad node's stream:UserWarning"),
]


def make() -> tuple[nn.Module, torch.optim.Optimizer, Callable[[], None]]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)).cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x = torch.ones(4, 8, device="cuda")

    def step() -> None:
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()

    return model, optimizer, step


def test_a_whole_step() -> None:
    model, optimizer, step = make()
    chosen = [GradientNorms(), Headroom(), StateHealth()]
    with gradlab.attach(model, optimizer, probes=chosen) as recorded:
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with pytest.warns(GradlabWarning, match="CUDA graph") as said, torch.cuda.graph(graph):
            step()
        assert sum(issubclass(one.category, GradlabWarning) for one in said) == 1
        before = model[0].weight.detach().clone()
        for _ in range(3):
            graph.replay()
        assert not torch.equal(before, model[0].weight)
        step()
    for table in ("steps", "headroom", "grad_norms"):
        assert set(recorded.table(table)["step"]) == {0, 1, 2, 3}
    assert recorded.table("grad_norms")["nonfinite"].eq(0).all()


def test_a_part_of_the_model() -> None:
    model, optimizer, step = make()
    model = nn.Sequential(model, nn.Linear(2, 2).cuda())
    inner = model[0]
    with gradlab.attach(model, optimizer, probes=[GradientNorms(), Headroom()]) as recorded:
        step()
        x = torch.ones(4, 8, device="cuda", requires_grad=True)

        class Part(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.part = inner

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.part(x)

        with pytest.warns(GradlabWarning, match="CUDA graph"):
            part = torch.cuda.make_graphed_callables(Part(), (x,))
        for _ in range(2):
            optimizer.zero_grad()
            model[1](part(x)).sum().backward()
            optimizer.step()
        torch.cuda.synchronize()
    steps = recorded.table("grad_norms").groupby("step")["nonfinite"].sum()
    assert steps.tolist() == [0, 0, 0]


def test_without_a_graph_nothing_is_said() -> None:
    model, optimizer, step = make()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with gradlab.attach(model, optimizer, probes=[Headroom()]) as recorded:
            step()
    assert len(recorded.table("headroom"))
