"""The loss against its definition."""

import math

import pytest
import torch

from gradlab.models.loss import UNCHOSEN, token_loss, z_loss


@pytest.mark.parametrize(
    ("dtype", "result", "tolerance"),
    [
        (torch.float64, torch.float64, 1e-14),
        (torch.float32, torch.float32, 1e-6),
        (torch.float16, torch.float32, 1e-6),
        (torch.bfloat16, torch.float32, 1e-6),
    ],
)
def test_mean_negative_log_probability(
    dtype: torch.dtype, result: torch.dtype, tolerance: float
) -> None:
    logits = (5 * torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(0))).to(dtype)
    targets = torch.tensor([[0, 6, 2], [3, 3, 5]])
    expected = 0.0
    for b in range(2):
        for t in range(3):
            row = logits[b, t].double().tolist()
            expected += math.log(sum(map(math.exp, row))) - row[targets[b, t]]
    loss = token_loss(logits, targets)
    assert loss.shape == ()
    assert loss.dtype == result
    assert loss.item() == pytest.approx(expected / 6, rel=tolerance)


def test_logits_at_the_edge_of_fp16_give_a_finite_loss() -> None:
    logits = torch.tensor([[[65504.0, -65504.0]]]).half().requires_grad_()
    loss = token_loss(logits, torch.tensor([[1]]))
    assert loss.item() == 131_008
    loss.backward()
    assert logits.grad.tolist() == [[[1.0, -1.0]]]
    assert logits.grad.dtype == torch.float16


def test_a_loss_is_over_the_chosen_places_and_has_no_gradient_at_others() -> None:
    logits = torch.randn(2, 5, 7, dtype=torch.float64, requires_grad=True)
    targets = torch.full((2, 5), UNCHOSEN)
    chosen = {(0, 1): 3, (0, 4): 0, (1, 2): 6}
    for place, token in chosen.items():
        targets[place] = token
    losses, squares = [], []
    for place, token in chosen.items():
        row = logits[place].tolist()
        ln_z = math.log(sum(map(math.exp, row)))
        losses.append(ln_z - row[token])
        squares.append(ln_z**2)
    loss, z = token_loss(logits, targets), z_loss(logits, targets)
    assert loss.item() == pytest.approx(sum(losses) / 3)
    assert z.item() == pytest.approx(sum(squares) / 3)
    for part in (loss, z):
        (gradient,) = torch.autograd.grad(part, logits)
        assert torch.equal(gradient[targets == UNCHOSEN], torch.zeros(7, 7).double())
        assert (gradient[targets != UNCHOSEN] != 0).all()


def test_parts_of_a_batch_divided_by_its_count_add_up_to_its_mean() -> None:
    logits = torch.randn(4, 5, 7, dtype=torch.float64, requires_grad=True)
    targets = torch.full((4, 5), UNCHOSEN)
    targets[0, :3] = torch.tensor([1, 0, 6])  # and none in the second half
    for loss in (token_loss, z_loss):
        first, second = (loss(logits[at], targets[at], 3) for at in (slice(0, 2), slice(2, 4)))
        assert second.item() == 0
        torch.testing.assert_close(first + second, loss(logits, targets))
        found, expected = (
            torch.autograd.grad(x, logits)[0] for x in (first + second, loss(logits, targets))
        )
        torch.testing.assert_close(found, expected)
