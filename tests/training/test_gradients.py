import pytest
import torch

from gradlab.training.gradients import clip_by_norm, total_norm


def float64_norm(gradients: list[torch.Tensor]) -> float:
    return sum(g.double().square().sum().item() for g in gradients) ** 0.5


@pytest.mark.parametrize("shapes", [[(3,)], [(7, 5), (1,), (2, 3, 4)], [(40_000,), (129, 257)]])
def test_total_norm(shapes: list[tuple[int, ...]]) -> None:
    generator = torch.Generator().manual_seed(0)
    gradients = [torch.randn(shape, generator=generator) for shape in shapes]
    assert total_norm(gradients).item() == pytest.approx(float64_norm(gradients), rel=1e-6)


def test_total_norm_of_the_largest_embedding() -> None:
    gradient = torch.randn(51200, 768, generator=torch.Generator().manual_seed(0))
    assert total_norm([gradient]).item() == pytest.approx(float64_norm([gradient]), rel=1e-6)


@pytest.mark.parametrize("size", [1e19, 1e20, 3e38, 1e-12, 1e-20, 1e-25, 1e-38])
@pytest.mark.parametrize("other", [0.0, 1.0])
def test_gradients_of_any_magnitude(size: float, other: float) -> None:
    gradients = [torch.full((3, 20_000), size), torch.full((2,), -size), torch.full((2,), other)]
    expected = float64_norm(gradients)
    norm = total_norm(gradients)
    assert norm.item() == pytest.approx(expected, rel=1e-6)
    clip_by_norm(gradients, norm, 0.5)
    # The factor has few digits where it is below 2^-126.
    assert float64_norm(gradients) == pytest.approx(min(0.5, expected), rel=1e-3)


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_gradient_that_is_not_finite_shows(value: float) -> None:
    assert not total_norm([torch.tensor([1.0, value])]).isfinite()


@pytest.mark.parametrize("max_norm", [0.1, 1e3])
def test_clipping_is_torchs(max_norm: float) -> None:
    generator = torch.Generator().manual_seed(0)
    ours = [torch.randn(30, 7, generator=generator), torch.randn(11, generator=generator)]
    theirs = [torch.nn.Parameter(torch.zeros_like(g)) for g in ours]
    for parameter, gradient in zip(theirs, ours, strict=True):
        parameter.grad = gradient.clone()
    torch.nn.utils.clip_grad_norm_(theirs, max_norm)
    clip_by_norm(ours, total_norm(ours), max_norm)
    for parameter, gradient in zip(theirs, ours, strict=True):
        torch.testing.assert_close(gradient, parameter.grad)
