"""What began outside the sites: in a parameter, a buffer, the input or the loss; and zeros."""

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gradlab
from gradlab.probes import Headroom
from gradlab.probes.attach import Probes

NAN, INF = math.nan, math.inf


def named(**modules: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(modules))


def record(
    model: nn.Module,
    inputs: Sequence[Any],
    loss_of: Callable[[Tensor, int], Tensor] = lambda y, step: y.float().square().mean(),
    dtype: torch.dtype | None = None,
) -> Probes:
    """A step an input, which is a tensor or keyword arguments; weights stay as they are."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.0)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    with gradlab.attach(model, optimizer, probes=[Headroom()]) as probes:
        for step, x in enumerate(inputs):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype or torch.half, enabled=dtype is not None):
                y = model(**x) if isinstance(x, dict) else model(x)
            loss_of(y, step).backward()
            optimizer.step()
            model.load_state_dict(start)
    return probes


def first_fault(probes: Probes) -> dict[str, Any]:
    faults = probes.table("faults")
    row: dict[str, Any] = faults.sort_values(["step", "order"], kind="stable").to_dict("records")[0]
    return row


class Own(nn.Module):
    """A parameter that the module uses by itself, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(4))
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = (x - self.mean) * self.gain
        return y


@pytest.mark.parametrize("bad", [NAN, INF])
@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("fc.weight", "parameter"),
        ("own.gain", "parameter"),
        ("norm.bias", "parameter"),
        ("own.mean", "buffer"),
    ],
)
@pytest.mark.parametrize("dtype", [None, torch.half, torch.bfloat16])
def test_a_module_that_only_reads_a_broken_tensor_is_no_producer(
    name: str, what: str, bad: float, dtype: torch.dtype | None
) -> None:
    model = named(fc=nn.Linear(4, 4), own=Own(), norm=nn.LayerNorm(4), head=nn.Linear(4, 1))
    with torch.no_grad():
        model.state_dict()[name].view(-1)[1] = bad
    with gradlab.emulated_fp16():
        probes = record(model, [torch.ones(2, 4)], dtype=dtype)
    events = probes.table("overflows")
    producers = events["producer"] if dtype is torch.half else probes.table("faults")["producer"]
    # inf in a buffer may be a mask.
    expected = "own" if what == "buffer" and bad == INF else f"{name} ({what})"
    assert producers.dropna().unique().tolist() == [expected]


def test_a_weight_that_fp16_does_not_hold_is_broken_by_its_cast() -> None:
    model = named(fc=nn.Linear(4, 4, bias=False), head=nn.Linear(4, 1))
    with torch.no_grad():
        model.fc.weight[0, 0] = 70000.0
    for weight, producer in ((70000.0, "fc.weight (parameter)"), (60000.0, "fc")):
        with torch.no_grad():
            model.fc.weight[0, 0] = weight
        with gradlab.emulated_fp16():
            probes = record(model, [torch.full((2, 4), 2.0)], dtype=torch.half)
        assert probes.table("overflows")["producer"].unique().tolist() == [producer]


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, left: Tensor, *, right: Tensor, mask: Tensor | None = None) -> Tensor:
        y: Tensor = self.a(left) + self.b(right)
        return y if mask is None else (y + mask).softmax(-1)


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("name", ["left", "right"])
def test_an_input_is_named_by_its_argument(name: str, bad: float) -> None:
    good = {"left": torch.ones(3, 4), "right": torch.ones(3, 4)}
    x = torch.ones(3, 4)
    x[1, 2] = bad
    probes = record(Two(), [good, {**good, name: x}, good])
    faults = probes.table("faults")
    inputs = faults[faults["what"] == "input"]
    assert inputs[["step", "name", "count", "numel"]].values.tolist() == [[1, name, 1, 12]]
    assert set(faults.loc[faults["what"] == "activation", "producer"]) == {f"{name} (input)"}


def test_an_input_given_by_position() -> None:
    x = torch.tensor([[1.0, NAN, 1.0, 1.0]])
    probes = record(named(fc=nn.Linear(4, 4)), [x])
    assert first_fault(probes)["producer"] == "input (input)"  # as Sequential calls it


class Several(nn.Module):
    """Takes whatever it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.part = nn.Linear(4, 4)

    def forward(self, first: Tensor, /, *xs: Tensor, **kw: Tensor) -> Tensor:
        y: Tensor = self.part(first + sum(xs) + kw["bias"])
        return y


@pytest.mark.parametrize(("place", "name"), [(0, "first"), (1, "xs[0]"), (2, "xs[1]"), (3, "bias")])
def test_inputs_of_a_model_that_takes_any_number(place: int, name: str) -> None:
    model = Several()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    given = [torch.ones(2, 4) for _ in range(4)]
    given[place][1, 2] = torch.nan
    with gradlab.attach(model, optimizer, probes=[Headroom()]) as probes:
        *several, bias = given
        model(*several, bias=bias).sum().backward()
        optimizer.step()
    faults = probes.table("faults")
    assert faults.loc[faults["what"] == "input", "name"].tolist() == [name]
    assert f"{name} (input)" in faults["producer"].tolist()


def test_a_mask_as_an_input_is_none() -> None:
    mask = torch.tensor([0.0, 0.0, -INF, -INF])
    ones = torch.ones(3, 4)
    assert record(Two(), [{"left": ones, "right": ones, "mask": mask}]).table("faults").empty


def test_what_a_model_makes_good_itself_is_no_fault() -> None:
    class Tolerant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.fc(x.nan_to_num())
            return y

    assert record(Tolerant(), [torch.full((2, 4), NAN)]).table("faults").empty


# Gradients that come so from the loss.


class Returned(nn.Module):
    """A model that returns its output in one of the ways that models do."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.body, self.head, self.how = nn.Linear(4, 4), nn.Linear(4, 3), how

    def forward(self, x: Tensor) -> Any:
        y = self.head(self.body(x).tanh())
        return {"tensor": y, "dict": {"logits": y}, "tuple": (x, y), "after": y * 2.0}[self.how]


@pytest.mark.parametrize("how", ["tensor", "dict", "tuple", "after"])
@pytest.mark.parametrize("bad", [NAN, INF])
def test_a_gradient_that_came_from_the_loss(how: str, bad: float) -> None:
    def loss(y: Any, step: int) -> Tensor:
        y = {"dict": lambda: y["logits"], "tuple": lambda: y[1]}.get(how, lambda: y)()
        y = y * 1.0
        y.register_hook(lambda g: g * bad if step == 1 else g)
        return y.square().mean()

    model = Returned(how)
    probes = record(model, [torch.ones(2, 4)] * 3, loss)
    (row,) = probes.table("faults").to_dict("records")
    assert (row["step"], row["what"], row["name"]) == (1, "gradient", "head")
    assert (row["producer"], row["direction"]) == ("the loss", "backward")


class Slope(nn.Module):
    """Finite, with a slope that is not."""

    def forward(self, x: Tensor) -> Tensor:
        return (x - x.detach()).abs().sqrt() + x


@pytest.mark.parametrize("last", [False, True])
def test_a_gradient_that_arose_in_the_model_did_not(last: bool) -> None:
    tail = nn.Identity() if last else nn.Linear(4, 2)
    model = named(body=nn.Linear(4, 4), slope=Slope(), tail=tail)
    row = first_fault(record(model, [torch.ones(2, 4)]))
    assert (row["name"], row["producer"]) == ("body", "body gradient")


def test_a_loss_scale_that_is_too_large_is_not_the_losss_doing() -> None:
    def loss(y: Tensor, step: int) -> Tensor:
        return y.float().sum() * 2.0**20

    with gradlab.emulated_fp16():
        probes = record(named(fc=nn.Linear(4, 4)), [torch.ones(2, 4)], loss, torch.half)
    assert probes.table("overflows")["producer"].unique().tolist() == ["fc gradient"]
    assert probes.table("faults").empty


# Losses, whatever the probes.


@pytest.mark.parametrize(
    ("losses", "kind", "count", "numel"),
    [((NAN,), "nan", 1, 1), ((1.0, INF), "inf", 1, 2), ((-INF, NAN, 1.0), "both", 2, 3)],
)
def test_a_loss_that_was_given_and_is_not_finite(
    losses: Sequence[float], kind: str, count: int, numel: int
) -> None:
    model = named(fc=nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with gradlab.attach(model, optimizer) as probes:
        for step in range(3):
            for loss in losses if step == 1 else [0.5] * (step != 2):
                probes.loss(loss)
            optimizer.zero_grad()
            model(torch.ones(2, 4)).sum().backward()
            optimizer.step()
    (row,) = probes.table("faults").to_dict("records")
    assert (row["step"], row["what"], row["kind"]) == (1, "loss", kind)
    assert (row["count"], row["numel"]) == (count, numel)


# All zero.


class Squared(nn.Module):
    """A norm that computes in its input's type."""

    def __init__(self, epsilon: float = 1e-6) -> None:
        super().__init__()
        self.weight, self.epsilon = nn.Parameter(torch.ones(4)), epsilon

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.epsilon) * self.weight
        return y


class Tiny(nn.Module):
    """A product that is too small for FP16."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((4,), 1e-5))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x * self.weight * 1e-4
        return y


@pytest.mark.parametrize(("size", "zero"), [(300.0, True), (3.0, False)])
@pytest.mark.parametrize("make", [Squared, Tiny, nn.ReLU])
def test_a_site_that_makes_zeros_of_something_else(
    make: Callable[[], nn.Module], size: float, zero: bool
) -> None:
    first = nn.Linear(4, 4, bias=False)
    nn.init.eye_(first.weight)
    model = named(first=first, it=make(), last=nn.Linear(4, 1)).half()
    x = torch.full((2, 4), size).half()
    if make is nn.ReLU:
        x = x * (-1 if zero else 1)
    elif make is Tiny:
        x = x / x if zero else x * 1000
    with gradlab.emulated_fp16():
        faults = record(model, [x] * 2).table("faults")
    rows = faults[["step", "name", "kind", "count", "numel"]].values.tolist()
    assert rows == ([[0, "it", "zero", 8, 8], [1, "it", "zero", 8, 8]] if zero else [])


def test_zeros_that_are_meant_or_only_handed_on_are_no_row() -> None:
    start = nn.Linear(4, 4)
    nn.init.zeros_(start.weight)
    nn.init.zeros_(start.bias)
    frozen = nn.Sequential(nn.Linear(4, 4), nn.ReLU()).requires_grad_(False)
    nn.init.constant_(frozen[0].bias, -100.0)
    model = named(frozen=frozen, start=start, act=nn.Tanh(), head=nn.Linear(4, 1))
    assert record(model, [torch.ones(2, 4)] * 2).table("faults").empty


@pytest.mark.parametrize("frozen", [False, True])
def test_a_mask_that_is_handed_in_is_not_blamed_for_what_the_model_does(frozen: bool) -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)
            self.out = Own()
            mask = torch.full((4, 4), -INF).triu(1)
            self.out.mask = nn.Parameter(mask, requires_grad=False) if frozen else mask

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            scores = self.fc(x) + (self.out.mask if frozen else mask)
            y: Tensor = self.out(scores.softmax(-1) * x.mul(3e38).mul(10))  # between the modules
            return y

    mask = torch.full((4, 4), -INF).triu(1)
    probes = record(Masked(), [{"x": torch.ones(4, 4), "mask": mask}])
    faults = probes.table("faults")
    assert faults["what"].tolist() == ["activation"]
    assert faults["name"].tolist() == ["out"]
    assert faults["producer"].tolist() == ["the model (between its modules)"]


def test_a_loss_within_the_model_that_has_nothing_to_add_is_no_dead_site() -> None:
    class Ranked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)
            self.ranking = nn.MarginRankingLoss()

        def forward(self, x: Tensor) -> Tensor:
            y = self.fc(x)
            loss: Tensor = y + self.ranking(y[:, 0] + 100, y[:, 1], torch.ones(2))
            return loss

    assert record(Ranked(), [torch.ones(2, 4)] * 3).table("faults").empty
