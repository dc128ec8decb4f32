from collections.abc import Callable
from typing import Any

import pytest
import torch
from devices import NoHostReads
from torch.nn import functional as F

from gradlab.config import OptimizerConfig, PrecisionConfig, RunConfig
from gradlab.models.build import build_model
from gradlab.training.step import Learner, make_learner, training_step

CPU = torch.device("cpu")
Make = Callable[..., RunConfig]


def batch(seed: int, size: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.randint(256, (size, 17), generator=torch.Generator().manual_seed(seed))
    return tokens[:, :-1], tokens[:, 1:]


def weights(learner: Learner) -> list[torch.Tensor]:
    return [p.detach().clone() for p in learner.model.parameters()]


def test_an_fp32_step_is_the_plain_one_to_the_bit(make_config: Make) -> None:
    config = make_config(arch="normformer", precision=PrecisionConfig(name="fp32"))
    learner = make_learner(config, CPU)
    model = build_model(config.model, seed=config.seed)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1e-3, betas=(0.9, 0.98), eps=1e-8, weight_decay=0.01, fused=True
    )
    for step in range(3):
        inputs, targets = batch(step)
        result = training_step(learner, [(inputs, targets)], 1e-3)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
        loss.backward()
        norm = sum(p.grad.double().square().sum() for p in model.parameters()).sqrt()
        optimizer.step()
        assert result.loss.item() == loss.item()
        assert result.grad_norm.item() == pytest.approx(norm.item(), rel=1e-6)
    for ours, theirs in zip(weights(learner), model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", ["fp32", "fp16", "fp16-pure", "bf16"])
def test_grad_norm_is_unscaled_and_before_clipping(make_config: Make, name: Any) -> None:
    norms = []
    for clip in (None, 1e-3):
        config = make_config(
            precision=PrecisionConfig(name=name, initial_loss_scale=1024.0),
            optimizer=OptimizerConfig(clip_norm=clip),
        )
        norms.append(training_step(make_learner(config, CPU), [batch(0)], 1e-3).grad_norm.item())
    reference = make_learner(make_config(precision=PrecisionConfig(name="fp32")), CPU)
    expected = training_step(reference, [batch(0)], 1e-3).grad_norm.item()
    assert norms[0] == norms[1]
    assert norms[0] == pytest.approx(expected, rel=0.02)


def test_micro_batches_are_one_batch(make_config: Make) -> None:
    config = make_config(precision=PrecisionConfig(name="fp32"))
    inputs, targets = batch(0, size=8)
    whole, parts = make_learner(config, CPU), make_learner(config, CPU)
    one = training_step(whole, [(inputs, targets)], 1e-3)
    two = training_step(parts, [(inputs[:4], targets[:4]), (inputs[4:], targets[4:])], 1e-3)
    torch.testing.assert_close(one.loss, two.loss)
    torch.testing.assert_close(one.grad_norm, two.grad_norm)


@pytest.mark.parametrize("name", ["fp16", "fp16-pure"])
def test_an_overflowing_step_is_skipped_and_halves_the_scale(make_config: Make, name: Any) -> None:
    config = make_config(precision=PrecisionConfig(name=name, initial_loss_scale=2.0**40))
    learner = make_learner(config, CPU)
    before = weights(learner)
    result = training_step(learner, [batch(0)], 0.1)
    assert not result.grad_norm.isfinite()
    assert learner.scaler.get_scale() == 2.0**39
    for was, now in zip(before, weights(learner), strict=True):
        assert torch.equal(was, now)


def test_a_good_step_keeps_the_scale_and_moves_the_weights(make_config: Make) -> None:
    learner = make_learner(make_config(), CPU)
    before = weights(learner)
    training_step(learner, [batch(0)], 0.1)
    assert learner.scaler.get_scale() == 2.0**16
    assert any(not torch.equal(was, now) for was, now in zip(before, weights(learner), strict=True))


def test_without_masters_weights_and_masters_stay_on_the_fp16_grid(make_config: Make) -> None:
    precision = PrecisionConfig(name="fp16-pure", master_weights=False)
    learner = make_learner(make_config(precision=precision), CPU)
    training_step(learner, [batch(0)], 1e-3)
    assert learner.masters is not None
    for master in learner.masters.parameters:
        assert torch.equal(master, master.half().float())


@pytest.mark.parametrize("name", ["fp32", "fp16", "fp16-pure"])
def test_a_step_reads_no_device_value_on_the_host(make_config: Make, name: Any) -> None:
    config = make_config(
        precision=PrecisionConfig(name=name), optimizer=OptimizerConfig(clip_norm=1.0)
    )
    learner = make_learner(config, CPU)
    training_step(learner, [batch(0)], 1e-3)  # the first step makes the optimizer's state
    with NoHostReads():
        training_step(learner, [batch(1)], 1e-3)
