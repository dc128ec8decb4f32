import numpy as np
import pytest
import torch
from devices import NoHostReads
from torch import nn

from gradlab.precision.master_weights import MasterWeights


def half_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).half()


def descend(
    model: nn.Module, keep: bool, gradients: list[list[np.ndarray]], lr: float
) -> MasterWeights:
    masters = MasterWeights(model, keep)
    optimizer = torch.optim.SGD(masters.parameters, lr=lr)
    for step in gradients:
        for weight, gradient in zip(model.parameters(), step, strict=True):
            weight.grad = torch.from_numpy(gradient)
        masters.take_gradients()
        optimizer.step()
        masters.write_back()
    return masters


def run(keep: bool, gradients: list[list[np.ndarray]], lr: float) -> tuple[list[np.ndarray], ...]:
    """Weights and masters after plain gradient descent on given fp16 gradients."""
    model = half_model()
    masters = descend(model, keep, gradients, lr)
    return (
        [weight.detach().numpy() for weight in model.parameters()],
        [master.detach().numpy() for master in masters.parameters],
    )


@pytest.mark.parametrize("keep", [True, False])
def test_equals_a_simulation_in_numpy(keep):
    lr = 2.0**-13  # so that the product is exact, fused with the sum or not
    rng = np.random.default_rng(0)
    shapes = [weight.shape for weight in half_model().parameters()]
    gradients = [[rng.normal(size=s).astype(np.float16) for s in shapes] for _ in range(50)]
    weights = [weight.detach().numpy().copy() for weight in half_model().parameters()]
    masters = [weight.astype(np.float32) for weight in weights]
    for step in gradients:
        for index, gradient in enumerate(step):
            masters[index] = masters[index] - np.float32(lr) * gradient.astype(np.float32)
            weights[index] = masters[index].astype(np.float16)
            if not keep:
                masters[index] = weights[index].astype(np.float32)
    for actual, expected in zip(run(keep, gradients, lr), (weights, masters), strict=True):
        for a, b in zip(actual, expected, strict=True):
            np.testing.assert_array_equal(a, b)


def test_small_updates_add_up_only_if_masters_are_kept():
    # Half the spacing of fp16 at 1 is 2^-11 above and 2^-12 below: 2^-13 alone changes nothing.
    shapes = [weight.shape for weight in half_model().parameters()]
    gradients = [[np.full(s, -1, np.float16) for s in shapes]] * 16
    ones = [np.ones(s, np.float16) for s in shapes]

    def final(keep: bool) -> float:
        model = half_model()
        for weight, one in zip(model.parameters(), ones, strict=True):
            weight.data = torch.from_numpy(one.copy())
        descend(model, keep, gradients, lr=2.0**-13)
        return model[0].weight[0, 0].item()

    assert final(keep=True) == 1 + 2.0**-9
    assert final(keep=False) == 1


def test_masters_are_fp32_copies_in_order_with_tied_weights_once():
    model = half_model()
    model[1].tied = model[0].weight
    masters = MasterWeights(model, True)
    assert [p.dtype for p in masters.parameters] == [torch.float32] * 4
    for master, weight in zip(masters.parameters, model.parameters(), strict=True):
        assert torch.equal(master, weight.float())
        assert master.data_ptr() != weight.data_ptr()


def test_an_fp32_model_is_copied_too():
    model = nn.Linear(2, 2)
    masters = MasterWeights(model, True)
    with torch.no_grad():
        masters.parameters[0].add_(1)
    assert not torch.equal(model.weight, masters.parameters[0])
    masters.write_back()
    assert torch.equal(model.weight, masters.parameters[0])


def test_gradients_keep_scale_inf_and_nan_and_follow_the_model_to_none():
    model = nn.Linear(2, 1).half()
    masters = MasterWeights(model, True)
    model.weight.grad = torch.tensor([[torch.inf, 65504.0]]).half()
    masters.take_gradients()
    assert masters.parameters[0].grad.dtype is torch.float32
    assert masters.parameters[0].grad.tolist() == [[torch.inf, 65504.0]]
    assert masters.parameters[1].grad is None
    masters.parameters[0].grad.mul_(2)  # past fp16's range, as unscaling and clipping may be
    assert model.weight.grad[0, 1] == 65504
    model.weight.grad = None
    masters.take_gradients()
    assert masters.parameters[0].grad is None


def test_weights_beyond_the_range_become_inf():
    model = nn.Linear(2, 1).half()
    masters = MasterWeights(model, True)
    with torch.no_grad():
        masters.parameters[0].copy_(torch.tensor([[65519.0, 65520.0]]))
    masters.write_back()
    assert model.weight.tolist() == [[65504.0, torch.inf]]


def test_frozen_weights_have_no_master():
    model = half_model()
    model[0].weight.requires_grad_(False)
    masters = MasterWeights(model, True)
    assert len(masters.parameters) == 3


def test_nothing_is_read_on_the_host():
    model = half_model()
    masters = MasterWeights(model, keep=False)
    model(torch.ones(1, 3).half()).sum().backward()
    with NoHostReads():
        masters.take_gradients()
        masters.write_back()
