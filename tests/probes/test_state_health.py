"""What is not finite in parameters and buffers, and whose doing it is, on faults put in by hand."""

import math
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gradlab
from gradlab.analyses.findings import findings
from gradlab.config import Events
from gradlab.probes import StateHealth
from gradlab.probes.finite import not_finite

Act = Callable[[int, nn.Module], None]
NAN, INF = math.nan, math.inf


def record(
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    *,
    steps: int = 4,
    x: Tensor | None = None,
    after_backward: Act = lambda step, model: None,
    between: Act = lambda step, model: None,
    **options: Any,
) -> pd.DataFrame:
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.01)
    with gradlab.attach(model, optimizer, probes=[StateHealth()], **options) as probes:
        for step in range(steps):
            optimizer.zero_grad()
            between(step, model)
            y = model(torch.ones(2, 4) if x is None else x)
            y.float().square().mean().backward()
            after_backward(step, model)
            optimizer.step()
    return probes.table("faults")


def told(faults: pd.DataFrame) -> list[tuple[Any, ...]]:
    return list(
        faults[["step", "what", "name", "kind", "count"]].itertuples(index=False, name=None)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_which_tensors_are_not_finite_is_the_obvious_computation(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    sizes = [(3,), (1,), (64, 80), (5000,), (2, 2), (7,), (64, 65)]
    tensors = [torch.randn(math.prod(size), generator=generator).to(dtype) for size in sizes]
    tensors.append(torch.randn(2 * 6300, generator=generator).to(dtype)[::2])
    assert not_finite(tensors)[0] == []
    tensors[0][1], tensors[2][3], tensors[3][7], tensors[7][5] = NAN, INF, -INF, NAN
    tensors[2][9] = NAN
    indices, counts, counted = not_finite(tensors)
    assert counted
    wrong = [i for i, x in enumerate(tensors) if not x.isfinite().all()]
    assert indices == wrong
    assert counts.tolist() == [
        [int(tensors[i].isinf().sum()), int(tensors[i].isnan().sum())] for i in wrong
    ]


def test_a_large_number_that_is_finite_is_no_fault() -> None:
    tensors = [torch.full((6000,), 65504.0).half(), torch.full((9,), torch.finfo().max)]
    tensors.append(torch.full((6000,), 1e30))  # whose squares overflow
    assert not_finite(tensors)[0] == []


@pytest.mark.parametrize("make", [torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop])
@pytest.mark.parametrize(("eps", "breaks"), [(1e-8, True), (1e-4, False)])
def test_an_epsilon_that_rounds_to_0(make: Any, eps: float, breaks: bool) -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rows = nn.Parameter(torch.ones(6, 4))

        def forward(self, x: Tensor) -> Tensor:
            return self.rows[:2]  # the others' gradient is 0

    model = Half().half()
    optimizer = make(model.parameters(), lr=1e-3, eps=eps)
    faults = record(model, optimizer)
    assert told(faults) == ([(0, "update", "rows", "nan", 16)] if breaks else [])
    if breaks:
        name = f"{make.__name__} (ε = 1e-08 is 0 in float16)"
        assert faults["producer"].tolist() == [name]
        assert faults["dtype"].tolist() == ["float16"]


def test_a_gradient_that_is_not_finite_is_what_broke_the_update() -> None:
    def poison(step: int, model: nn.Module) -> None:
        if step == 2:
            model.get_parameter("0.bias").grad[1] = NAN  # type: ignore[index]

    faults = record(nn.Sequential(nn.Linear(4, 3)), after_backward=poison)
    assert told(faults) == [
        (2, "update", "0.bias", "nan", 1),
        (3, "update", "0.weight", "nan", 4),  # by the NaN in the bias
    ]
    assert faults["producer"].tolist() == ["0.bias gradient", "0.weight gradient"]


def test_a_learning_rate_that_is_infinite() -> None:
    model = nn.Sequential(nn.Linear(4, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def raise_rate(step: int, model: nn.Module) -> None:
        optimizer.param_groups[0]["lr"] = INF if step == 1 else 0.1

    faults = record(model, optimizer, between=raise_rate, every=10)
    assert faults["step"].tolist() == [1, 1]
    assert faults["producer"].tolist() == ["SGD", "SGD"]


def test_what_somebody_changed_by_hand_is_not_the_optimizers() -> None:
    def write(step: int, model: nn.Module) -> None:
        if step == 2:
            with torch.no_grad():
                model.get_parameter("0.weight")[0, 0] = INF

    faults = record(nn.Sequential(nn.Linear(4, 3)), between=write)
    first = faults.iloc[0]
    assert (first["step"], first["what"], first["kind"], first["count"]) == (
        *(2, "parameter", "inf", 1),
    )
    assert pd.isna(first["producer"])


def test_what_a_model_starts_with() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2).requires_grad_(False))
    nn.init.constant_(model[1].bias, NAN)
    faults = record(model, torch.optim.SGD(model[0].parameters(), lr=0.1), steps=2)
    assert (0, "parameter", "1.bias", "nan", 2) in told(faults)
    assert not (faults.loc[faults["name"] == "1.bias", "step"] > 0).any()


class Average(nn.Module):
    """A buffer in which forward passes leave what they saw, each way that modules do that."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.fc = how, nn.Linear(4, 4)
        self.register_buffer("seen", torch.zeros(4), persistent=how != "replaced")
        self.register_buffer("mask", torch.tensor([0.0, -INF]))
        self.register_buffer("count", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        mean = x.detach().mean(0)
        if self.how == "data":
            self.seen.data.lerp_(mean, 0.1)
        elif self.how == "in place":
            self.seen.mul_(0.9).add_(mean, alpha=0.1)
        elif self.how == "kernel":
            F.batch_norm(x, self.seen, torch.ones(4), training=True)
        else:
            self.seen = 0.9 * self.seen + 0.1 * mean
        self.count += 1
        return self.fc(x.nan_to_num())


@pytest.mark.parametrize("how", ["data", "in place", "kernel", "replaced"])
@pytest.mark.parametrize("bad", [NAN, INF, 1.0])
@pytest.mark.parametrize("skips", [False, True])
def test_a_buffer_that_a_pass_poisoned(how: str, bad: float, skips: bool) -> None:
    model = Average(how)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0, enabled=skips)
    attached = gradlab.attach(
        model, optimizer, scaler=scaler, probes=[StateHealth()], every=10, window=2
    )
    with attached as probes:
        for step in range(5):
            x = torch.ones(3, 4)
            x[0, 0] = bad if step == 2 else 1.0
            optimizer.zero_grad()
            loss = model(x).mean() * (INF if skips and step == 2 else 1.0)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
    faults = told(probes.table("faults"))
    if bad == 1.0:
        assert faults == []
    else:
        assert [row[:3] for row in faults] == [(2, "buffer", "seen")]
    assert probes.table("steps")["skipped"].tolist() == [False, False, skips, False, False]


def test_a_tensor_that_is_mended_and_breaks_again_is_told_twice() -> None:
    def act(step: int, model: nn.Module) -> None:
        weight = model.get_parameter("0.weight")
        with torch.no_grad():
            weight.fill_(NAN if step in (1, 2, 5) else 1.0)
            model.get_parameter("0.bias").fill_(0.0)

    faults = record(nn.Sequential(nn.Linear(4, 1)), between=act, steps=7)
    weights = faults[faults["name"] == "0.weight"]
    assert weights["step"].tolist() == [1, 5]


def test_gradients_that_never_come_and_those_that_come_late() -> None:
    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.never = nn.Linear(4, 1), nn.Linear(4, 1), nn.Linear(4, 1)
            self.frozen = nn.Linear(4, 1).requires_grad_(False)
            self.calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            y: Tensor = (self.a if self.calls < 3 else self.b)(x)
            return y

    model = Experts()
    trained = [p for p in model.parameters() if p.requires_grad]
    faults = record(model, torch.optim.SGD(trained, lr=0.1), steps=5, every=10)
    assert told(faults) == [
        (0, "gradient", "b.weight", "absent", 4),
        (0, "gradient", "b.bias", "absent", 1),
        (0, "gradient", "never.weight", "absent", 4),
        (0, "gradient", "never.bias", "absent", 1),
        (2, "gradient", "b.weight", "absent", 0),
        (2, "gradient", "b.bias", "absent", 0),
    ]


def test_a_parameter_whose_data_is_replaced() -> None:
    def replace(step: int, model: nn.Module) -> None:
        weight = model.get_parameter("0.weight")
        weight.data = torch.full((1, 4), NAN if step == 2 else 1.0)

    model = nn.Sequential(nn.Linear(4, 1, bias=False))
    faults = record(model, between=replace)
    assert told(faults) == [(2, "parameter", "0.weight", "nan", 4)]


def test_a_parameter_whose_entries_are_in_another_order_is_looked_at_anew() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 2), nn.Flatten()).to(memory_format=torch.channels_last)
    assert not model[0].weight.is_contiguous()

    def poison(step: int, model: nn.Module) -> None:
        if step == 2:
            model.get_parameter("0.weight").grad[1, 0, 0, 1] = NAN  # type: ignore[index]

    faults = record(model, x=torch.ones(2, 3, 4, 4), after_backward=poison, steps=3)
    assert told(faults) == [(2, "update", "0.weight", "nan", 1)]


def test_a_sound_training_has_no_row() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))
    assert record(model, torch.optim.AdamW(model.parameters()), x=torch.randn(6, 4)).empty


class Masked(nn.Module):
    """Scores with a mask that is kept in a buffer or a frozen parameter."""

    def __init__(self, kept: str, length: int, fill: float = -INF) -> None:
        super().__init__()
        self.q = nn.Linear(4, 4)
        self.kept, self.fill = kept, fill
        self.keep(length)

    def keep(self, length: int) -> None:
        mask = torch.full((length, length), self.fill).triu(1)
        if self.kept == "buffer":
            self.register_buffer("mask", mask)
        else:
            self.mask = nn.Parameter(mask, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > len(self.mask):
            self.keep(len(x))
        return (self.q(x) @ x.mT + self.mask[: len(x), : len(x)]).softmax(-1)


@pytest.mark.parametrize("length", [0, 1, 2, 6])
@pytest.mark.parametrize("kept", ["buffer", "parameter"])
def test_a_mask_is_no_fault_though_it_be_made_as_inputs_get_longer(kept: str, length: int) -> None:
    if kept == "parameter" and length < 2:
        pytest.skip("a parameter that is replaced is a new one to its optimizer, too")
    model = Masked(kept, length)
    assert record(model).empty


def test_a_frozen_weight_that_is_infinite_is_no_mask() -> None:
    faults = record(Masked("parameter", 2, fill=INF))
    assert told(faults[faults["name"] == "mask"]) == [(0, "parameter", "mask", "inf", 1)]


def with_a_buffer(*values: float) -> nn.Module:
    """A model that does not use its buffer."""
    model = nn.Linear(4, 4)
    model.register_buffer("unused", torch.tensor(values))
    return model


def test_a_mask_that_becomes_nan_is_a_fault() -> None:
    def spoil(step: int, model: nn.Module) -> None:
        if step == 2:
            model.get_buffer("unused")[0] = NAN

    faults = record(with_a_buffer(0, -INF), after_backward=spoil)
    assert told(faults) == [(2, "buffer", "unused", "both", 2)]


@pytest.mark.parametrize("window", [1, 7, 50])
def test_what_stays_broken_is_one_event_whatever_the_window(window: int) -> None:
    def spoil(step: int, model: nn.Module) -> None:
        if step in (3, 5, 12):
            model.get_buffer("unused")[0] = 0.0 if step == 5 else NAN

    model = with_a_buffer(0.0, 0.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with gradlab.attach(model, optimizer, every=10, window=window) as probes:
        for step in range(20):
            optimizer.zero_grad()
            model(torch.ones(2, 4)).square().mean().backward()
            spoil(step, model)
            optimizer.step()
    assert sorted(set(probes.table("grad_norms")["step"])) == [0, 3, 10, 12]
    assert sorted(set(probes.table("headroom")["step"])) == [0, 3, 10, 12]


@pytest.mark.parametrize("how", ["none", "deleted", "other"])
def test_what_was_broken_may_be_gone_as_its_row_is_made(how: str) -> None:
    model = with_a_buffer(0.0, 0.0)

    def spoil(step: int, model: nn.Module) -> None:
        if step == 1:
            model.get_buffer("unused")[0] = INF

    def take_away(step: int, model: nn.Module) -> None:
        if step == 3 and how == "deleted":
            del model.unused
        elif step == 3:
            model.unused = None if how == "none" else torch.zeros(5, dtype=torch.float16)

    faults = record(model, after_backward=spoil, between=take_away)
    assert told(faults) == [(1, "buffer", "unused", "inf", 1)]
    assert (faults["numel"].tolist(), faults["dtype"].tolist()) == ([2], ["float32"])


def test_gradients_that_the_loop_fills_in_by_itself_did_come() -> None:
    model = nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with gradlab.attach(model, optimizer, probes=[StateHealth()]) as probes:
        for step in range(3):
            given = dict(model.named_parameters())
            if not step:
                del given["bias"]
            loss = model(torch.ones(2, 4)).square().mean()
            found = torch.autograd.grad(loss, list(given.values()))
            for parameter, gradient in zip(given.values(), found, strict=True):
                parameter.grad = gradient
            optimizer.step()
            optimizer.zero_grad()
    assert told(probes.table("faults")) == [
        (0, "gradient", "bias", "absent", 4),
        (1, "gradient", "bias", "absent", 0),
    ]


@pytest.mark.parametrize(
    ("events", "steps", "made"),
    [
        ("exact", [3], "update"),
        ("skipped", [3], "update"),
        ("sampled", [5], "parameter"),  # of the five before, none is known to have done it
    ],
)
def test_which_steps_are_looked_at(events: Events, steps: list[int], made: str) -> None:
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    looks = []

    class Noted(StateHealth):
        def begin(self, step: int) -> None:
            looks.append(step)
            super().begin(step)

    with gradlab.attach(model, optimizer, probes=[Noted()], every=5, events=events) as probes:
        for step in range(8):
            optimizer.zero_grad()
            model(torch.ones(2, 4)).square().mean().backward()
            optimizer.param_groups[0]["lr"] = INF if step == 3 else 0.01
            optimizer.step()
    assert looks[:8] == ([0, 5] if events == "sampled" else [*range(8)])
    faults = probes.table("faults")
    first = faults[faults["what"].isin(["update", "parameter"])].iloc[0]
    assert [first["step"]] == steps
    assert first["what"] == made
    found = {finding.what: finding.sentence for finding in findings(probes.run())}
    unseen = "a step that was not looked at made it so"
    assert (unseen in found["parameters not finite"]) == (events == "sampled")
