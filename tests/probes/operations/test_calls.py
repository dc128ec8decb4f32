"""The operation that is to blame: its function, its operands, and the line in the program."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import gradlab
from gradlab.precision.emulation import is_emulating
from gradlab.probes.engine.own_hook import own
from gradlab.probes.operations.calls import Calls
from gradlab.probes.operations.culprit import Culprit

HERE = Path(__file__)
ONE = torch.ones(2, 4)


class Body(nn.Module):
    """A linear map of given weight, and a function of what it gives."""

    def __init__(self, function: Callable[[Tensor], Tensor], weight: float) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4, bias=False)
        nn.init.constant_(self.linear.weight, weight)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.linear(x))


def hooks(calls: Calls, model: nn.Module) -> list[Any]:
    """The hooks, which a copy of the model does not have."""
    handles = list(calls.hooks())
    return [*handles, *own(handles, model)]


def blamed(
    model: nn.Module,
    *inputs: Tensor,
    loss: Callable[[Any], Tensor] = lambda output: output.float().sum(),
    within: AbstractContextManager[None] | None = None,
) -> Culprit | None:
    """What is found after one forward and backward pass."""
    calls = Calls(model)
    handles = hooks(calls, model)
    with within or nullcontext():
        for x in inputs:
            loss(model(x)).backward()
        found = calls.again()
    for handle in handles:
        handle.remove()
    return found


def line_of(words: str) -> str:
    """The first line of this file that has these words."""
    lines = HERE.read_text().splitlines()
    return f"{HERE.name}:{1 + next(n for n, line in enumerate(lines) if words in line)}"


def exponential(x: Tensor) -> Tensor:
    return x.exp() + 1


def division(x: Tensor) -> Tensor:
    return 1 / x


def rooted(x: Tensor) -> Tensor:
    return x.clamp_min(0).sqrt()


def logarithm(x: Tensor) -> Tensor:
    return torch.where(x > 0, x.log(), torch.zeros_like(x))


def length(x: Tensor) -> Tensor:
    return x.norm(dim=-1)


def deviation(x: Tensor) -> Tensor:
    return x.std(dim=-1)


def all_masked(x: Tensor) -> Tensor:
    scores = x.masked_fill(torch.ones(4, dtype=torch.bool), -math.inf)
    return F.softmax(scores, dim=-1)


def written_into_a_view(x: Tensor) -> Tensor:
    y = x * 1
    y[:, 0].div_(0 * x[:, 0])
    return y * 2


def hidden_by_a_clamp(x: Tensor) -> Tensor:
    return torch.pow(10.0, x).clamp_max(5)


@pytest.mark.parametrize(
    ("function", "weight", "words", "name", "direction"),
    [
        (exponential, 100.0, "x.exp() + 1", "exp", "forward"),
        (division, 0.0, "return 1 / x", "__rtruediv__", "forward"),
        (rooted, 0.0, "clamp_min(0).sqrt()", "sqrt", "backward"),
        (logarithm, 0.0, "x.log(), torch.zeros_like", "log", "forward"),
        (all_masked, 1.0, "F.softmax(scores", "softmax", "forward"),
        (written_into_a_view, 1.0, "div_(0 * x", "div_", "forward"),
        (hidden_by_a_clamp, 30.0, "torch.pow(10.0", "pow", "forward"),
    ],
)
def test_the_function_and_its_line_are_named(
    function: Callable[[Tensor], Tensor], weight: float, words: str, name: str, direction: str
) -> None:
    found = blamed(Body(function, weight), ONE)
    assert found is not None
    assert found.operation.source.endswith(line_of(words))
    assert name in found.operation.function.split("(")[0]
    assert found.direction == direction
    assert found.count > 0


@pytest.mark.parametrize("function", [exponential, rooted, logarithm, length, deviation])
def test_nobody_is_blamed_where_all_is_finite(function: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    model = Body(function, 0.1)
    nn.init.uniform_(model.linear.weight, 0.1, 0.2)
    assert blamed(model, torch.rand(2, 4) + 0.1) is None


def test_a_mask_that_leaves_something_is_no_fault() -> None:
    def masked(x: Tensor) -> Tensor:
        mask = torch.tensor([False, True, True, True])
        return F.softmax(x.masked_fill(mask, -math.inf), dim=-1)

    assert blamed(Body(masked, 1.0), ONE) is None


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_was_handed_in_blames_no_operation(bad: float) -> None:
    assert blamed(Body(exponential, 1.0), torch.full((2, 4), bad)) is None
    model = Body(exponential, 1.0)
    nn.init.constant_(model.linear.weight, bad)
    assert blamed(model, ONE) is None


def test_a_gradient_that_arrives_not_finite_blames_no_operation() -> None:
    assert blamed(Body(exponential, 0.1), ONE, loss=lambda y: (y * math.nan).sum()) is None


def test_an_overflow_of_fp16_names_the_product() -> None:
    class Scores(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.float16):
                q = self.q(x) + 300
                scores = q @ q.mT
                return scores.softmax(-1)

    found = blamed(Scores(), ONE, within=gradlab.emulated_fp16())
    assert found is not None
    assert found.operation.source.endswith(line_of("scores = q @ q.mT"))
    assert (found.dtype, found.kind, found.count, found.numel) == ("float16", "inf", 4, 4)
    assert "float16 (2, 4), float16 (4, 2)" in found.operation.function


def test_the_innermost_module_and_the_call_are_named_where_all_is_torchs() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.LayerNorm(4)))
    nn.init.constant_(model[0].weight, 1e30)  # the variance is past fp32
    model[0].weight.data[0] = 0
    calls = Calls(model)
    handles = hooks(calls, model)
    model(ONE).sum().backward()  # the call of the model
    found = calls.again()
    for handle in handles:
        handle.remove()
    assert found is not None
    assert found.operation.module == "1.0"
    assert found.operation.source.endswith(line_of("# the call of the model"))


def test_the_second_of_two_micro_batches_is_found() -> None:
    found = blamed(Body(exponential, 1.0), ONE, 100 * ONE)
    assert found is not None
    assert found.direction == "forward"


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing(reentrant: bool) -> None:
    def again(x: Tensor) -> Tensor:
        result: Tensor = checkpoint(rooted, x, use_reentrant=reentrant)
        return result

    found = blamed(Body(again, 0.0), ONE)
    assert found is not None
    assert found.operation.source.endswith(line_of("clamp_min(0).sqrt()"))


def test_random_numbers_are_those_of_the_call() -> None:
    kept: list[Tensor] = []

    def noisy(x: Tensor) -> Tensor:
        noise = torch.rand_like(x)
        kept.append(noise)
        return F.dropout(x * noise, 0.5) * math.inf

    torch.manual_seed(1)
    model = Body(noisy, 1.0)
    blamed(model, ONE)
    after = torch.rand(3)
    assert torch.equal(kept[0], kept[1])
    torch.manual_seed(1)
    expected = Body(noisy, 1.0)
    expected(ONE)
    assert torch.equal(after, torch.rand(3))


def test_nothing_of_the_model_changes() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(4)
            self.calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return self.norm(x) / 0

    model = Counting()
    calls = Calls(model)
    handles = hooks(calls, model)
    model(torch.randn(3, 4)).sum().backward()
    before = {name: x.clone() for name, x in model.state_dict().items()}
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    assert calls.again() is not None
    for handle in handles:
        handle.remove()
    assert model.calls == 1
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    now = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(
        torch.equal(
            a,
            b,
        )
        or (a.isnan() == b.isnan()).all()
        for a, b in zip(now, gradients, strict=True)
    )
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("value", [1.0, math.nan])
def test_memory_that_is_freed_between_uses_is_not_read(value: float) -> None:
    """As FSDP2 has it: a weight's memory comes and goes, and no version of it counts that."""
    weight = torch.empty(4)
    memory = weight.untyped_storage()

    def use(x: Tensor) -> Tensor:
        memory.resize_(0)
        weight.untyped_storage().resize_(16)  # called on a tensor without memory
        # As a collective call writes it, which is no function of torch's.
        with (
            torch._C.DisableTorchFunction(),
            torch.autograd._unsafe_preserve_version_counter(weight),
        ):
            weight.fill_(value)
        return (x * weight * 1e3).exp()

    found = blamed(Body(use, 1.0), ONE)
    if math.isnan(value):
        assert found is None
    else:
        assert found is not None
        assert found.operation.function.startswith("torch.Tensor.exp(")


def test_inputs_changed_since_cannot_be_gone_back_to() -> None:
    model = Body(exponential, 100.0)
    calls = Calls(model)
    handles = hooks(calls, model)
    x = torch.ones(2, 4)
    model(x).sum().backward()
    x.zero_()
    assert calls.again() is None
    for handle in handles:
        handle.remove()


def test_parts_of_a_container_are_followed() -> None:
    model = nn.ModuleDict({"a": Body(exponential, 1.0), "b": Body(division, 0.0)})
    calls = Calls(model)
    handles = hooks(calls, model)
    (model["a"](ONE).sum() + model["b"](ONE).sum()).backward()
    found = calls.again()
    for handle in handles:
        handle.remove()
    assert found is not None
    assert found.operation.module == "b"


class Chain(nn.Module):
    """Linear maps that make each gradient larger, so that parameters' overflow before others do."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4, bias=False) for _ in range(3)])
        self.head = nn.Linear(4, 1)
        for layer in self.layers:
            nn.init.eye_(layer.weight)
            layer.weight.data *= gain

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)  # each map
        y: Tensor = self.head(x)  # the last
        return y


@pytest.mark.parametrize(
    ("gain", "factor", "where"),
    [
        (1e12, 1e20, "x)  # each map"),  # the gradients of the maps' outputs leave FP32 as well
        (1e12, 1e3, "x)  # the last"),  # those of parameters alone: 1e36 · 1e3
    ],
)
def test_a_gradient_that_only_a_parameter_gets_is_blamed_last(
    gain: float, factor: float, where: str
) -> None:
    model = Chain(gain)
    found = blamed(model, ONE, loss=lambda output: output.sum() * factor)
    assert found is not None
    assert found.direction == "backward"
    assert found.operation.source.endswith(line_of(where))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("function", "operand"),
    [
        (lambda x: F.linear(x.float() * 1e30, x.float() * 1e30), None),
        (lambda x: F.poisson_nll_loss(x * 25, x), torch.float32),  # autocast computes it in FP32
        (lambda x: (x.float() * 1e38).to(torch.float16), torch.float32),  # the program casts
    ],
)
def test_operands_have_the_type_that_autocast_gives_them(
    function: Callable[[Tensor], Tensor], operand: torch.dtype | None, dtype: torch.dtype
) -> None:
    found = blamed(Body(function, 1.0), ONE, within=torch.autocast("cpu", dtype))
    assert found is not None
    name = str(operand or dtype).removeprefix("torch.")
    assert f"({name} (" in found.operation.function


@pytest.mark.parametrize("emulates", [False, True])
@pytest.mark.parametrize("how", ["again", "repeat"])
def test_emulation_around_the_forward_pass_alone_is_entered_again(how: str, emulates: bool) -> None:
    seen: list[bool] = []

    def look(x: Tensor) -> Tensor:
        seen.append(is_emulating())
        return x

    model = Body(look, 1.0)
    calls = Calls(model)
    handles = hooks(calls, model)
    calls.begin()
    with gradlab.emulated_fp16() if emulates else nullcontext():
        output = model(ONE)
    output.sum().backward()
    getattr(calls, how)()
    assert seen == [emulates, emulates]
    assert not is_emulating()
    for handle in handles:
        handle.remove()
