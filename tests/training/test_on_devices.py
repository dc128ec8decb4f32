"""The built-in loop in each precision: on a CPU always, on a GPU where there is one."""

import math
from collections.abc import Callable
from contextlib import closing, nullcontext

import pandas as pd
import pytest
import torch
from devices import DEVICES, never_waiting

from gradlab.config import OptimizerConfig, PrecisionConfig, RecordConfig, RunConfig
from gradlab.data.corpus import load_corpus
from gradlab.probes import (
    AttentionScores,
    GradientNorms,
    Headroom,
    LearnedScales,
    OptimizerHealth,
    StateHealth,
)
from gradlab.probes.engine.follower import LoopFollower
from gradlab.training.device import repeatable
from gradlab.training.loop import _validate, step_batches, train
from gradlab.training.step import StepResult, make_learner, training_step

Make = Callable[..., RunConfig]
PRECISIONS = ("fp32", "bf16", "fp16", "fp16-pure")
EVERYTHING = RecordConfig(
    window=4, every=2, probes=("headroom", "grad_norms", "scales", "scores", "optimizer")
)


@pytest.fixture
def everything(make_config: Make) -> Make:
    """Runs with accumulation, clipping and validation."""

    def make(device: str, name: str, **fields: object) -> RunConfig:
        given = {
            "steps": 4,
            "accumulation": 2,
            "optimizer": OptimizerConfig(clip_norm=0.5),
            "val_every": 2,
            "val_batches": 2,
            "precision": PrecisionConfig(name=name),
        }
        return make_config("normformer", device=device, **{**given, **fields})

    return make


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", PRECISIONS)
def test_probes_change_no_bit(everything: Make, device: str, name: str) -> None:
    bare, probed = (
        train(everything(device, name, record=record))
        for record in (RecordConfig(probes=()), EVERYTHING)
    )
    steps = bare.table("steps").drop(columns="seconds")
    assert steps["loss"].notna().all()
    assert steps["val_loss"].notna().sum() == 2
    pd.testing.assert_frame_equal(probed.table("steps").drop(columns="seconds"), steps)
    assert all(len(probed.table(name)) for name in EVERYTHING.probes)
    assert probed.info["device"]["type"] == device


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", PRECISIONS)
@pytest.mark.parametrize("attention", ["materialised", "sdpa"])
def test_no_step_waits(everything: Make, device: str, name: str, attention: str) -> None:
    config = everything(device, name, record=EVERYTHING)
    config = config.replace(model=config.model.replace(attention=attention))
    corpus = load_corpus(config.data, seq_len=16, vocab_size=config.model.vocab_size)
    where = torch.device(device)
    probes = [
        *(GradientNorms(), LearnedScales(every=1), Headroom(count=1), StateHealth()),
        *(AttentionScores(), OptimizerHealth()),
    ]
    with repeatable(where, 0):
        learner = make_learner(config, where)
        follower = LoopFollower(learner.subject, probes, scaler=learner.scaler)

        def note(result: StepResult) -> None:
            follower.note_loss(result.loss)
            follower.note_grad_norm(result.grad_norm)

        with closing(follower), learner.precision.arithmetic():
            for step in range(3):
                with never_waiting(device) if step else nullcontext():  # the first makes buffers
                    batches = step_batches(config, corpus, where, step)
                    training_step(learner, batches, config.lr(step), note=note)
                    loss = _validate(config, corpus, where, learner)
            found = list(follower.collect())
    assert loss.isfinite()
    assert all(step.loss is not None and math.isfinite(step.loss) for step in found)
    assert all(step.grad_norm is not None and math.isfinite(step.grad_norm) for step in found)
    assert len(found) == 3
    assert all(len(step.tables) >= len(probes) - 1 for step in found)  # of no fault, no table


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("name", "near"), [("fp32", 1e-3), ("bf16", 3e-2), ("fp16", 1e-2), ("fp16-pure", 1e-2)]
)
def test_a_gpu_follows_the_cpu(everything: Make, name: str, near: float) -> None:
    cpu, cuda = (train(everything(device, name)).table("steps") for device in ("cpu", "cuda"))
    same = ["step", "update", "lr", "loss_scale", "skipped", "tokens"]
    pd.testing.assert_frame_equal(cpu[same], cuda[same])
    for column in ("loss", "grad_norm", "val_loss"):
        expected = cpu[column].dropna().tolist()
        assert cuda[column].dropna().tolist() == pytest.approx(expected, rel=near), column


TOO_LARGE = PrecisionConfig(name="fp16", initial_loss_scale=2.0**30)
"""By so much that the gradients of the first steps overflow whatever the order of sums."""


@pytest.mark.parametrize("device", DEVICES)
def test_overflows_of_the_loss_scale_are_skipped(make_config: Make, device: str) -> None:
    config = make_config(device=device, precision=TOO_LARGE, steps=3, record=RecordConfig(every=3))
    run = train(config)
    steps, events = run.table("steps"), run.table("overflows")
    assert steps["skipped"].all()
    assert steps["update"].eq(steps["update"][0]).all()
    assert steps["loss_scale"].tolist() == [2.0**30, 2.0**29, 2.0**28]
    assert set(events["step"]) == {0, 1, 2}
    assert set(events["direction"]) == {"backward"}
    assert events["skipped"].all()


@pytest.mark.gpu
def test_a_gpu_names_the_sites_and_producers_that_the_cpu_names(make_config: Make) -> None:
    cpu, cuda = (
        train(make_config(device=device, precision=TOO_LARGE, steps=2, record=RecordConfig()))
        for device in ("cpu", "cuda")
    )
    columns = ["step", "site", "direction", "numel", "producer", "loss_scale", "skipped"]
    first = [run.table("overflows").groupby("step").head(1)[columns] for run in (cpu, cuda)]
    pd.testing.assert_frame_equal(*(rows.reset_index(drop=True) for rows in first))
    places = [
        set(zip(*(run.table("headroom")[c] for c in columns[:3]), strict=True))
        for run in (cpu, cuda)
    ]
    assert places[0] == places[1]
