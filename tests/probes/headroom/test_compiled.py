"""Headroom inside torch.compile: what it records there is what it records without."""

import shutil
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.utils.checkpoint import checkpoint

import gradlab
from gradlab.errors import GradlabWarning
from gradlab.models.build import build_model
from gradlab.models.presets import model_config
from gradlab.probes import Headroom
from gradlab.probes.headroom.compiled import CAN_LOOK_INSIDE, _acts

pytestmark = pytest.mark.skipif(not CAN_LOOK_INSIDE, reason="needs torch 2.13")

KEYS = ["step", "site", "direction", "dtype"]

Compile = Callable[[nn.Module], nn.Module]


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="torch")
        warnings.filterwarnings("ignore", message="The .grad attribute")  # Dynamo's own access
        yield
    torch._dynamo.reset()


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.fc1, self.act, self.fc2 = nn.Linear(8, 16), nn.ReLU(inplace=True), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.fc2(self.act(self.fc1(self.norm(x))))
        return out


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 8)
        self.one, self.two = Block(), Block()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.two(self.one(self.first(x))))
        return out


class Short(nn.Module):
    """As much as a question needs that is not about the modules: to compile takes the time."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(torch.relu(self.first(x)))
        return out


class Checkpointed(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = checkpoint(self.one, self.first(x), use_reentrant=False)
        out: Tensor = self.last(checkpoint(self.two, x, use_reentrant=False))
        return out


class Twice(Net):
    """Uses a module twice, and gives a part's parameter for its output."""

    class Weight(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.full((8,), 2.0))

        def forward(self) -> Tensor:
            return self.weight

    def __init__(self) -> None:
        super().__init__()
        self.weight = self.Weight()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.first(self.one(self.first(x * self.weight())))
        return out


class Several(Net):
    """Parts that give several tensors, or are mapped over a batch."""

    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> dict[str, Any]:
            return {"half": self.fc(x) / 2, "rest": [torch.tanh(x), 3, None]}

    def __init__(self) -> None:
        super().__init__()
        self.pair = self.Pair()

    def forward(self, x: Tensor) -> Tensor:
        pair = self.pair(x)
        out: Tensor = torch.vmap(self.last)(pair["half"]) * self.first(pair["rest"][0])
        return out


class Exploding(Net):
    """An operation between modules overflows."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.two(torch.exp(1e4 * self.one(self.first(x)))))
        return out


def whole(backend: str = "eager") -> Compile:
    def compiled(model: nn.Module) -> Any:
        return torch.compile(model, backend=backend, fullgraph=True)

    return compiled


def in_place(model: nn.Module) -> nn.Module:
    model.compile(backend="aot_eager", fullgraph=True)
    return model


def blocks_only(model: nn.Module) -> nn.Module:
    assert isinstance(model, Net)
    model.one.compile(backend="aot_eager", fullgraph=True)
    two: Any = torch.compile(model.two, backend="eager", fullgraph=True)
    model.two = two
    return model


def not_at_all(model: nn.Module) -> nn.Module:
    return model


def made(kind: type[nn.Module] = Net) -> tuple[Any, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = kind()
    return model, torch.optim.SGD(model.parameters(), lr=0.01)


def batch(step: int) -> Tensor:
    return torch.randn(4, 8, generator=torch.Generator().manual_seed(step))


def train(net: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 3) -> list[float]:
    losses = []
    for step in range(steps):
        optimizer.zero_grad()
        loss = net(batch(step)).square().sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def recorded(
    compile: Compile, kind: type[nn.Module] = Net, steps: int = 3, **options: Any
) -> dict[str, pd.DataFrame]:
    model, optimizer = made(kind)
    with gradlab.attach(model, optimizer, probes=[Headroom()], **options) as probes:
        train(compile(model), optimizer, steps)
    return {name: probes.table(name) for name in ("headroom", "overflows", "faults")}


# A model compiled in parts, and each kind of model with the backend that traces most; all of them
# in `make test-long`. (What is compiled in place is seen below, too.)
KINDS = [Net, Checkpointed, Twice, Several]
WAYS = [(blocks_only, Net), *((whole("aot_eager"), kind) for kind in KINDS)]
MORE_WAYS = [(compile, kind) for compile in (whole("eager"), in_place) for kind in KINDS]


@pytest.mark.parametrize(
    ("compile", "kind"), [*WAYS, *(pytest.param(*way, marks=pytest.mark.long) for way in MORE_WAYS)]
)
def test_every_site_is_recorded_as_without_compiling(compile: Compile, kind: type[Net]) -> None:
    expected = recorded(not_at_all, kind)
    found = recorded(compile, kind)
    for name, table in found.items():
        pd.testing.assert_frame_equal(table, expected[name])
    assert not counters["graph_break"]
    assert counters["stats"]["unique_graphs"] == (2 if compile is blocks_only else 1)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_every_site_is_recorded_in_kernels_of_its_own() -> None:
    expected, found = recorded(not_at_all)["headroom"], recorded(whole("inductor"))["headroom"]
    pd.testing.assert_frame_equal(found[KEYS], expected[KEYS])
    assert found["max_abs"].tolist() == pytest.approx(expected["max_abs"].tolist(), rel=1e-3)
    assert not counters["graph_break"]
    assert counters["stats"]["unique_graphs"] == 1


def test_a_cadence_compiles_nothing_anew_and_losses_are_those_without_probes() -> None:
    bare, bare_optimizer = made(Short)
    expected = train(whole("aot_eager")(bare), bare_optimizer, 20)
    torch._dynamo.reset()
    counters.clear()
    model, optimizer = made(Short)
    with gradlab.attach(model, optimizer, probes=[Headroom()], every=5) as probes:
        assert train(whole("aot_eager")(model), optimizer, 20) == expected
    assert counters["stats"]["unique_graphs"] == 1
    assert sorted(set(probes.table("headroom")["step"])) == [0, 5, 10, 15]


def test_an_evaluation_in_other_modes_makes_no_graph_but_its_own() -> None:
    def evaluate(net: nn.Module, step: int) -> None:
        net.eval()
        with torch.no_grad():
            net(batch(step))
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            net(batch(step))
        with torch.inference_mode():
            net(batch(step))
        net.train()

    def all_modes(net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for step in range(3):
            optimizer.zero_grad()
            net(batch(step)[: step + 2]).square().sum().backward()  # its size becomes dynamic
            optimizer.step()
            evaluate(net, step)

    model, optimizer = made(Short)
    all_modes(whole()(model), optimizer)
    graphs = counters["stats"]["unique_graphs"]
    torch._dynamo.reset()
    counters.clear()
    model, optimizer = made(Short)
    with gradlab.attach(model, optimizer) as probes:
        all_modes(whole()(model), optimizer)
    assert counters["stats"]["unique_graphs"] == graphs
    assert len(probes.table("headroom").query("site == 'last' and direction == 'forward'")) == 3


def test_passes_may_overlap() -> None:
    def run(compile: Compile) -> pd.DataFrame:
        model, optimizer = made(Short)
        with gradlab.attach(model, optimizer, probes=[Headroom()]) as probes:
            net = compile(model)
            first, second = net(batch(0)).sum(), net(batch(1)).square().sum()
            first.backward()
            second.backward()
            optimizer.step()
        return probes.table("headroom")

    pd.testing.assert_frame_equal(run(whole("aot_eager")), run(not_at_all))


def test_an_overflow_is_recorded_with_what_caused_it_off_cadence_too() -> None:
    def run(compile: Compile) -> pd.DataFrame:
        torch.manual_seed(0)
        model = Net().half()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        with gradlab.attach(model, optimizer, probes=[Headroom()], every=10) as probes:
            net = compile(model)
            for step in range(3):
                optimizer.zero_grad()
                net(batch(step).half()).float().sum().backward()
                optimizer.step()
                with torch.no_grad():
                    model.two.fc2.weight.fill_(3e4 if step == 0 else 0.01)
        return probes.table("overflows")

    expected, found = run(not_at_all), run(whole("aot_eager"))
    # A compiled backward pass gives the parameters' gradients at its end.
    told = ["step", "site", "direction", "kind", "count", "numel", "producer"]
    pd.testing.assert_frame_equal(
        found[told].sort_values(told, ignore_index=True),
        expected[told].sort_values(told, ignore_index=True),
    )
    first = found.iloc[0]
    assert (first["step"], first["site"], first["producer"]) == (1, "two.fc2", "two.fc2")


def poisoned_weight(model: Short, x: Tensor) -> Tensor:
    with torch.no_grad():
        model.last.weight[0, 0] = torch.nan
    return x


def poisoned_input(model: Short, x: Tensor) -> Tensor:
    x[0, 0] = torch.inf
    return x


def poisoned_loss(model: Short, x: Tensor) -> Tensor:
    return x


@pytest.mark.parametrize("poison", [poisoned_weight, poisoned_input, poisoned_loss])
def test_what_is_not_finite_is_blamed_on_the_same(poison: Any) -> None:
    def run(compile: Compile) -> pd.DataFrame:
        model, optimizer = made(Short)
        with gradlab.attach(model, optimizer, probes=[Headroom()]) as probes:
            net = compile(model)
            out = net(poison(model, batch(0)))
            loss = (out - out.detach()).abs().sum().sqrt() if poison is poisoned_loss else out.sum()
            loss.backward()
            optimizer.step()
        return probes.table("faults")

    found = run(whole("aot_eager"))
    assert len(found)
    pd.testing.assert_frame_equal(found, run(not_at_all))


@pytest.mark.parametrize(
    "compile", [whole("aot_eager"), pytest.param(blocks_only, marks=pytest.mark.long)]
)
def test_the_operation_and_its_line_are_named(compile: Compile) -> None:
    found, expected = recorded(compile, Exploding, 1), recorded(not_at_all, Exploding, 1)
    (function,) = found["faults"]["function"]
    assert function.startswith("torch.exp(")
    for name in ("function", "source"):
        pd.testing.assert_series_equal(found["faults"][name], expected["faults"][name])


def test_our_own_models_scores_count_visible_pairs() -> None:
    def run(compile: Compile) -> pd.DataFrame:
        config = model_config("pre-ln", "nano", d_model=16, n_layers=1, n_heads=2, d_ff=32)
        model = build_model(config, seed=0)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        with gradlab.attach(model, optimizer, probes=[Headroom()]) as probes:
            compile(model)(torch.arange(24).view(2, 12)).square().sum().backward()
            optimizer.step()
        return probes.table("headroom")

    pd.testing.assert_frame_equal(run(whole("aot_eager")), run(not_at_all))


def test_detached_the_compiled_model_is_free_of_it() -> None:
    model, optimizer = made(Short)
    before = len(_acts)
    probes = gradlab.attach(model, optimizer, probes=[Headroom()])
    net = whole("aot_eager")(model)
    train(net, optimizer, 1)
    probes.close()
    assert len(_acts) == before
    bare, bare_optimizer = made(Short)
    train(bare, bare_optimizer, 1)
    assert train(net, optimizer, 2) == train(bare, bare_optimizer, 2)


def test_what_was_compiled_but_has_not_run_is_seen() -> None:
    for compile, kind in ((whole(), Short), (in_place, Short), (blocks_only, Net)):
        expected = recorded(not_at_all, kind)["headroom"]
        model, optimizer = made(kind)
        net = compile(model)
        with gradlab.attach(net, optimizer, probes=[Headroom()]) as probes:
            train(net, optimizer)
        pd.testing.assert_frame_equal(probes.table("headroom"), expected)


def test_what_has_run_compiled_is_said_to_be_left_out() -> None:
    for compile, kind, some in (
        (whole(), Short, "the modules"),
        (blocks_only, Net, "some of the modules"),
    ):
        model, optimizer = made(kind)
        net = compile(model)
        train(net, optimizer, 1)
        with (
            pytest.warns(GradlabWarning, match=f"left out {some} that probes") as said,
            gradlab.attach(net, optimizer, probes=[Headroom()]),
        ):
            train(net, optimizer)
        assert len(said) == 1
        with gradlab.attach(net, optimizer, probes=[Headroom()]) as probes:
            torch._dynamo.reset()  # as the warning says
            train(net, optimizer)
        assert len(probes.table("headroom")) == len(recorded(not_at_all, kind)["headroom"])


def test_an_exported_program_has_nothing_of_it() -> None:
    model, optimizer = made(Short)
    with gradlab.attach(model, optimizer, probes=[Headroom()]):
        program = torch.export.export(model, (batch(0),), strict=True)
    assert "gradlab" not in str(program.graph)
