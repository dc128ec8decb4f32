"""Every architecture through the loop: its number formats, its record, and its way on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from gradlab.config import (
    OptimizerConfig,
    PrecisionConfig,
    RecordConfig,
    RunConfig,
    StabilityConfig,
)
from gradlab.models.build import build_model
from gradlab.models.presets import ARCHITECTURES
from gradlab.training.loop import train
from gradlab.training.progress import Progress
from gradlab.training.step import make_learner, training_step

Make = Callable[..., RunConfig]
CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ["fp16", "fp16-pure", "bf16"])
@pytest.mark.parametrize("arch", [*ARCHITECTURES][5:])
def test_every_architecture_trains_in_every_format(make_config: Make, arch: str, name: Any) -> None:
    config = make_config(arch, model={"n_layers": 5}, precision=PrecisionConfig(name=name))
    learner = make_learner(config, CPU)
    tokens = torch.randint(256, (4, 17), generator=torch.Generator().manual_seed(0))
    batch = (tokens[:, :-1], tokens[:, 1:])
    before = [p.detach().clone() for p in learner.trained]
    losses = [training_step(learner, [batch], 1e-3).loss.item() for _ in range(4)]
    assert losses[-1] < losses[0] - 0.02
    assert {p.dtype for p in learner.model.parameters()} == {learner.precision.weight_dtype}
    moved = [not torch.equal(p, was) for p, was in zip(learner.trained, before, strict=True)]
    assert all(moved)


class StoppedError(Exception):
    pass


@pytest.mark.parametrize(
    ("arch", "fields"),
    [
        ("batch-norm", {}),  # running statistics beside the weights
        ("rezero", {"dropout": 0.1}),  # one factor, used twice
        ("admin", {}),  # initial values from a pass of its own
        ("layerscale", {"stochastic_depth": 0.5}),  # draws
    ],
)
def test_a_run_stopped_half_way_ends_the_same(
    make_config: Make, tmp_path: Path, arch: str, fields: dict[str, Any]
) -> None:
    config = make_config(arch, model=fields, record=RecordConfig(checkpoint_every=2), val_every=4)
    whole = train(config, tmp_path / "whole")

    def stop(news: Progress) -> None:
        if news.step == 7:
            raise StoppedError

    with pytest.raises(StoppedError):
        train(config, tmp_path / "parts", progress=stop)
    resumed = train(config, tmp_path / "parts", resume=True)
    for table in ("steps", "grad_norms", "headroom"):
        if table in whole.tables:
            one, other = (
                run.table(table).drop(columns="seconds", errors="ignore")
                for run in (whole, resumed)
            )
            pd.testing.assert_frame_equal(one, other, check_exact=True)
    assert "steps" in whole.tables


@pytest.mark.parametrize("fields", [{"norm": "batchnorm"}, {"stochastic_depth": 0.5}], ids=str)
def test_a_step_looked_at_again_changes_nothing(make_config: Make, fields: dict[str, Any]) -> None:
    """Passes made again update running statistics and draw anew, but leave both as they were."""
    losses = []
    for events in ("exact", "skipped"):
        config = make_config(
            model=fields,
            precision=PrecisionConfig(name="fp16", initial_loss_scale=2.0**23),
            stability=StabilityConfig(patience=99, margin=1e9),
            record=RecordConfig(events=events, every=50),
        )
        steps = train(config).table("steps")
        assert 0 < steps["skipped"].sum() < len(steps)
        losses.append(steps["loss"].to_numpy())
    np.testing.assert_array_equal(*losses)


def test_scales_are_recorded_under_the_name_of_what_they_scale(make_config: Make) -> None:
    def scales(arch: str, **model: Any) -> dict[str, set[float]]:
        record = RecordConfig(probes=("scales",), every=1)
        table = train(make_config(arch, model=model, steps=1, record=record)).table("scales")
        layer = table[table["layer"] == 0]
        return {op: set(rows["value"].round(6)) for op, rows in layer.groupby("op")}

    assert scales("rezero") == {"attn_scale": {0.0}}
    assert scales("layerscale")["ffn_scale"] == {0.1}
    assert scales("dyt")["attn_norm.alpha"] == {0.5}
    assert scales("dyt")["attn_norm"] == {1.0}
    assert scales("pre-ln", norm="scalenorm")["ffn_norm"] == {4.0}  # √16
    assert set(scales("qk-norm")) == {"attn_norm", "ffn_norm", "q_norm", "k_norm"}
    assert scales("admin")["lambda_resid"] > {1.0}


def test_the_z_loss_is_trained_on_and_not_recorded(make_config: Make) -> None:
    weight = 0.1
    config = make_config(
        precision=PrecisionConfig(name="fp32"), optimizer=OptimizerConfig(z_loss=weight)
    )
    learner = make_learner(config, CPU)
    tokens = torch.randint(256, (4, 17), generator=torch.Generator().manual_seed(0))
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    halves = [(inputs[:2], targets[:2]), (inputs[2:], targets[2:])]
    result = training_step(learner, halves, 1e-3)

    model = build_model(config.model, seed=config.seed, dtype=torch.float64)
    logits = model(inputs)
    log_z = logits.exp().sum(-1).log()
    loss = (log_z - logits.gather(-1, targets[..., None])[..., 0]).mean()
    (loss + weight * (log_z**2).mean()).backward()
    assert result.loss.item() == pytest.approx(loss.item(), rel=1e-6)
    norm = sum(p.grad.square().sum() for p in model.parameters()).sqrt()
    assert result.grad_norm.item() == pytest.approx(norm.item(), rel=1e-5)
