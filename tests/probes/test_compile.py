"""Probes and torch.compile: no graph break, right values, and a plain word where it cannot be."""

import shutil
import warnings
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

import gradlab
from gradlab.errors import GradlabError, GradlabWarning
from gradlab.probes import (
    AttentionScores,
    GradientNorms,
    Headroom,
    LearnedScales,
    OptimizerHealth,
    Probe,
)
from gradlab.probes.headroom.compiled import CAN_LOOK_INSIDE

STEPS = 4

only_from_outside = pytest.mark.skipif(
    CAN_LOOK_INSIDE, reason="this torch takes headroom's hooks into its graphs"
)

Compile = Callable[[nn.Module, str], nn.Module]


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.fc1, self.fc2 = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc2(torch.relu(self.fc1(self.norm(x))))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.blocks = nn.ModuleList([Block(), Block()])

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return x


def returned(model: nn.Module, backend: str) -> nn.Module:
    compiled: Any = torch.compile(model, backend=backend, fullgraph=True)
    return compiled


def in_place(model: nn.Module, backend: str) -> nn.Module:
    model.compile(backend=backend, fullgraph=True)
    return model


def eager(model: nn.Module, backend: str) -> nn.Module:
    return model


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="torch")
        yield
    torch._dynamo.reset()


def make() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = Net()
    return model, torch.optim.AdamW(model.parameters(), lr=1e-2)


def train(net: nn.Module, optimizer: torch.optim.Optimizer, steps: int = STEPS) -> None:
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        optimizer.zero_grad()
        net(torch.randint(11, (2, 5), generator=generator)).square().sum().backward()
        optimizer.step()


def gradient_probes(every: int = 1) -> list[Probe]:
    return [GradientNorms(every=every), LearnedScales(every=every), OptimizerHealth(every=every)]


def recorded(compile: Compile, backend: str, late: bool = False) -> dict[str, pd.DataFrame]:
    model, optimizer = make()
    net = compile(model, backend) if late else model
    with gradlab.attach(net, optimizer, probes=gradient_probes()) as probes:
        train(net if late else compile(model, backend), optimizer)
    return {name: probes.table(name) for name in ("grad_norms", "scales", "optimizer")}


# Each pair of choices once; all three together in `make test-long`.
PAIRS = {(returned, "eager", False), (returned, "aot_eager", True)}
PAIRS |= {(in_place, "eager", True), (in_place, "aot_eager", False)}


@pytest.mark.parametrize(
    ("compile", "backend", "late"),
    [
        pytest.param(*way, marks=[] if way in PAIRS else pytest.mark.long)
        for way in product((returned, in_place), ("eager", "aot_eager"), (False, True))
    ],
)
def test_gradient_probes_break_no_graph_and_are_right(
    compile: Compile, backend: str, late: bool
) -> None:
    check(compile, backend, late, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_gradient_probes_are_right_with_kernels_of_its_own() -> None:
    check(returned, "inductor", late=False, rtol=1e-4)


def check(compile: Compile, backend: str, late: bool, rtol: float) -> None:
    expected = recorded(eager, "")
    found = recorded(compile, backend, late)
    assert not counters["graph_break"]
    assert counters["stats"]["unique_graphs"] == 1
    for name, table in found.items():
        keys = ["param", "step", *(["index"] if name == "scales" else [])]
        # The order of the parameters is the graph's own.
        pd.testing.assert_frame_equal(
            table.sort_values(keys, ignore_index=True),
            expected[name].sort_values(keys, ignore_index=True),
            rtol=rtol,
            atol=1e-7,
        )


def test_a_cadence_compiles_nothing_anew() -> None:
    model, optimizer = make()
    with gradlab.attach(model, optimizer, probes=gradient_probes(2)):
        train(returned(model, "eager"), optimizer)
    assert not counters["graph_break"]
    assert counters["stats"]["unique_graphs"] == 1


def test_two_optimizers_break_no_graph() -> None:
    model, _ = make()
    assert isinstance(model, Net)
    pair = [
        torch.optim.SGD(model.embed.parameters(), lr=0.1),
        torch.optim.SGD(model.blocks.parameters(), lr=0.1),
    ]
    with gradlab.attach(model, pair, probes=[GradientNorms()]) as probes:
        net = returned(model, "eager")
        for _ in range(3):
            model.zero_grad()
            net(torch.ones(2, 3, dtype=torch.int64)).sum().backward()
            for optimizer in pair:
                optimizer.step()
    assert not counters["graph_break"]
    assert len(probes.table("steps")) == 3


@only_from_outside
@pytest.mark.parametrize("compile", [returned, in_place])
def test_a_compiled_model_has_no_sites_and_that_is_refused(compile: Compile) -> None:
    model, optimizer = make()
    net = compile(model, "eager")
    with pytest.raises(GradlabError, match="Headroom cannot see inside a compiled model"):
        gradlab.attach(net, optimizer, probes=[Headroom()])
    with (
        pytest.warns(GradlabWarning, match="compiled: headroom is not recorded"),
        gradlab.attach(net, optimizer) as probes,
    ):
        train(net, optimizer, 1)
    assert probes.run().info["probes"] == ["GradientNorms", "LearnedScales", "StateHealth"]


@only_from_outside
@pytest.mark.parametrize("compile", [returned, in_place])
def test_sites_that_were_compiled_away_are_said_to_be_once(compile: Compile) -> None:
    model, optimizer = make()
    probes = gradlab.attach(model, optimizer, probes=[Headroom()])
    net = compile(model, "eager")
    with pytest.warns(GradlabWarning, match="left out the modules that probes") as said:
        train(net, optimizer)
    assert len(said) == 1
    probes.close()
    assert not counters["graph_break"]
    table = probes.table("headroom")
    assert set(table["direction"]) == {"backward"}
    assert set(table["site"]) == {name for name, _ in model.named_parameters()}


@only_from_outside
def test_sites_in_a_part_that_was_compiled_are_said_to_be_missing() -> None:
    model, optimizer = make()
    assert isinstance(model, Net)
    probes = gradlab.attach(model, optimizer, probes=[Headroom()])
    model.blocks[1].compile(backend="eager")
    with pytest.warns(GradlabWarning, match="left out some of the modules that"):
        train(model, optimizer)
    probes.close()
    forward = set(probes.table("headroom").query("direction == 'forward'")["site"])
    assert "blocks.0.fc1" in forward
    assert "blocks.1.fc1" not in forward


def test_attention_that_was_compiled_away_is_said_to_be_missing_once() -> None:
    model, optimizer = make()
    with gradlab.attach(model, optimizer, probes=[AttentionScores()]):
        net = returned(model, "eager")
        with pytest.warns(GradlabWarning, match="no attention scores are recorded") as said:
            train(net, optimizer)
    assert sum(one.category is GradlabWarning for one in said) == 1  # torch may say something too


def test_a_part_without_gradients_is_not_said_to_be_compiled() -> None:
    encoder, head = nn.Linear(2, 2), nn.Linear(2, 1)
    model = nn.Sequential(encoder, head)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    with gradlab.attach(model, optimizer, probes=[Headroom("0")]):
        with torch.no_grad():
            hidden = encoder(torch.ones(1, 2))
        head(hidden).sum().backward()
        optimizer.step()


def test_without_compiling_nothing_is_said() -> None:
    model, optimizer = make()
    with gradlab.attach(model, optimizer, probes=[Headroom(), AttentionScores()]):
        train(model, optimizer)
        with torch.no_grad():
            model(torch.ones(2, 3, dtype=torch.int64))
        train(model, optimizer)


def test_a_part_that_a_step_does_not_use_is_not_taken_for_compiled() -> None:
    model = nn.ModuleDict({"used": nn.Linear(2, 2), "unused": nn.Linear(2, 2)})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradlab.attach(model, optimizer, probes=[Headroom("unused")]):
        model["used"](torch.ones(1, 2)).sum().backward()
        optimizer.step()
