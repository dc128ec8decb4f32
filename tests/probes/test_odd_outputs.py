"""Modules that return what Headroom cannot look at, or must not leave a hook on."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

import gradlab
from gradlab.probes import AttentionScores, Headroom, Probe


class Returned(nn.Module):
    """A module whose output is its parameter itself."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))

    def forward(self) -> Tensor:
        return self.weight


class WithReturned(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.place, self.fc = Returned(), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.fc(x + self.place())
        return result


class Made(nn.Module):
    """A layer whose output is made into something else."""

    def __init__(self, make: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.fc, self.make = nn.Linear(4, 4), make

    def forward(self, x: Tensor) -> Tensor:
        return self.make(self.fc(x))


def sites_of(model: nn.Module, backward: Callable[[], None]) -> set[str]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    chosen: list[Probe] = [Headroom()]
    with gradlab.attach(model, optimizer, probes=chosen) as attached:
        for _ in range(3):
            backward()
            optimizer.step()
    return set(attached.table("headroom")["site"])


def test_no_hook_stays_on_a_parameter_that_a_module_returns() -> None:
    model = WithReturned()
    found = sites_of(model, lambda: model(torch.ones(2, 4)).sum().backward())
    assert {"place", "fc"} <= found
    assert not model.place.weight._backward_hooks


@pytest.mark.parametrize(
    "make",
    [
        Tensor.to_sparse,
        lambda x: x.to(torch.float8_e4m3fn),
        lambda x: torch.nested.nested_tensor_from_jagged(x, torch.tensor([0, 1, 2])),
    ],
    ids=["sparse", "float8", "nested"],
)
def test_outputs_without_extremes_are_passed_over(make: Callable[[Tensor], Tensor]) -> None:
    model = nn.Sequential(Made(make))

    def backward() -> None:
        out = model(torch.ones(2, 4))
        if out.is_nested:
            out = out.values()
        (out.to_dense() if out.is_sparse else out.float()).sum().backward()

    found = sites_of(model, backward)
    assert "0.fc" in found
    assert "0" not in found


class Attention(nn.Module):
    num_heads = 1

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.fc, self.fused = nn.Linear(4, 4), fused

    def forward(self, x: Tensor) -> Tensor:
        q = self.fc(x)[..., None, :, :]
        if self.fused:
            return nn.functional.scaled_dot_product_attention(q, q, q)
        return torch.softmax(q @ q.mT, -1) @ q


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # torch's, of its own kernels
@pytest.mark.parametrize("fused", [False, True])
def test_scores_of_single_examples_go_on(fused: bool) -> None:
    model = nn.Sequential(Attention(fused))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    weights = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    examples = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0))
    with gradlab.attach(model, optimizer, probes=[AttentionScores(exact=True)]) as attached:
        vmap(grad(lambda given, x: functional_call(model, given, (x,)).sum()), in_dims=(None, 0))(
            weights, 100 * examples
        )
        model(examples).sum().backward()
        optimizer.step()
    q = examples @ weights["0.fc.weight"].T + weights["0.fc.bias"]
    expected = (q @ q.mT).abs().max().item() * (0.5 if fused else 1)
    assert attached.table("scores")["max_abs"].tolist() == pytest.approx([expected], rel=1e-5)


def test_gradients_of_single_examples_go_on() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))
    examples = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))

    def backward() -> None:
        weights = {name: weight.detach() for name, weight in model.named_parameters()}
        each = vmap(
            grad(lambda given, x: functional_call(model, given, (x,)).sum()), in_dims=(None, 0)
        )(weights, examples)
        model(examples).sum().backward()
        assert torch.allclose(each["0.weight"].sum(0), model[0].weight.grad, atol=1e-6)
        model.zero_grad()

    assert sites_of(model, backward) == {"0", "1"}
