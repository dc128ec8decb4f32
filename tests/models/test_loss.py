"""The loss against its definition."""

import math

import pytest
import torch

from gradlab.models.loss import next_token_loss


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
    loss = next_token_loss(logits, targets)
    assert loss.shape == ()
    assert loss.dtype == result
    assert loss.item() == pytest.approx(expected / 6, rel=tolerance)


def test_logits_at_the_edge_of_fp16_give_a_finite_loss() -> None:
    logits = torch.tensor([[[65504.0, -65504.0]]]).half().requires_grad_()
    loss = next_token_loss(logits, torch.tensor([[1]]))
    assert loss.item() == 131_008
    loss.backward()
    assert logits.grad.tolist() == [[[1.0, -1.0]]]
    assert logits.grad.dtype == torch.float16
