import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import gradlab
from gradlab.config import (
    PrecisionConfig,
    RecordConfig,
    RunConfig,
    ScheduleConfig,
    StabilityConfig,
)
from gradlab.data.batches import train_batch, validation_batches
from gradlab.data.corpus import load_corpus
from gradlab.errors import ConfigError, GradlabError
from gradlab.models.loss import token_loss
from gradlab.runs.reader import Run
from gradlab.training.loop import train
from gradlab.training.progress import Progress
from gradlab.training.step import make_learner

Make = Callable[..., RunConfig]
# Two ways to leave FP16's range that no rounding can avert: weights that move by the step's number
# times 0.5 at every step, and a loss scale that grows by 2^40 at once and comes back by halves.
BREAKS = {
    "weights": {
        "schedule": ScheduleConfig(kind="ramp", lr_step=0.5),
        "stability": StabilityConfig(margin=1e9),  # the loss rises before anything overflows
        "precision": PrecisionConfig(name="fp16"),
    },
    "loss scale": {
        "schedule": ScheduleConfig(lr=1e-3),
        "precision": PrecisionConfig(
            name="fp16", initial_loss_scale=128, growth_factor=2.0**40, growth_interval=120
        ),
    },
}


@pytest.fixture(scope="module", params=BREAKS)
def broken_run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that really breaks: a tiny Pre-LN in emulated FP16."""
    torch.set_num_threads(1)
    corpus = tmp_path_factory.mktemp("text") / "words.txt"
    corpus.write_text("gradient norm scale layer overflow rises and falls\n" * 400)
    config = RunConfig(
        arch="pre-ln",
        size="tiny",
        model=gradlab.model_config(
            "pre-ln", "nano", d_model=16, n_layers=2, n_heads=2, d_ff=32, max_seq_len=16
        ),
        steps=200,
        batch_size=4,
        data={"corpus": str(corpus)},
        device="cpu",
        **BREAKS[request.param],
    )
    return train(config, tmp_path_factory.mktemp("run") / "broken")


def test_the_run_breaks_by_an_overflow(broken_run: Run) -> None:
    verdict = broken_run.verdict
    assert verdict is not None
    assert verdict.broke
    assert broken_run.status == "finished"
    steps = broken_run.table("steps")
    assert steps["step"].iloc[-1] == verdict.detected_step
    assert verdict.lr == pytest.approx(broken_run.config.lr(verdict.step))
    assert not steps["skipped"].iloc[verdict.step - 1]
    assert steps["skipped"].iloc[verdict.step :].all()
    assert verdict.first_overflow is not None


def test_a_loss_scale_past_the_range_breaks_the_run_where_it_grows(broken_run: Run) -> None:
    if broken_run.config.precision.growth_interval == 120:
        verdict = broken_run.verdict
        assert (verdict.step, verdict.reason) == (120, "grad_nonfinite")
        assert verdict.first_overflow.endswith(" gradient")


def test_the_first_overflow_is_the_first_event_at_the_verdicts_step(broken_run: Run) -> None:
    verdict = broken_run.verdict
    events = broken_run.table("overflows")
    at = events[events["step"] == verdict.step].sort_values("order")
    first = at.iloc[0]
    assert first["producer"] == verdict.first_overflow
    assert verdict.first_overflow.removesuffix(" gradient") == first["site"]
    assert (at["producer"] == verdict.first_overflow).all()


def test_headroom_says_what_the_overflow_says(broken_run: Run) -> None:
    events = broken_run.table("overflows")
    headroom = broken_run.table("headroom")
    keys = ["step", "site", "direction"]
    both = events.merge(headroom, on=keys, suffixes=("", "_headroom"))
    assert len(both) > 0
    assert (both["nonfinite"] == both["count"]).all()
    assert (both["headroom_bits"] == -np.inf).all()
    half = headroom[headroom["dtype"] == "float16"]
    finite = half[half["nonfinite"] == 0]
    nonzero = finite[finite["max_abs"] > 0]
    np.testing.assert_allclose(
        nonzero["headroom_bits"], np.log2(65504 / nonzero["max_abs"]), rtol=1e-12
    )
    assert (nonzero["headroom_bits"] >= 0).all()


def test_the_headroom_is_sampled_and_whole_on_the_last_steps(broken_run: Run) -> None:
    last, window = broken_run.verdict.detected_step, broken_run.config.record.window
    steps = broken_run.table("headroom")["step"].unique().tolist()
    sampled = [step for step in range(last + 1) if step % 10 == 0]
    assert steps == sorted({*sampled, *range(max(0, last + 1 - window), last + 1), *steps})
    assert len(steps) < last + 1 or last < 2 * window


def test_the_same_config_gives_the_same_losses_to_the_bit(make_config: Make) -> None:
    config = make_config(arch="normformer", model={"dropout": 0.1})
    one, two = train(config).table("steps"), train(config).table("steps")
    pd.testing.assert_frame_equal(one.drop(columns="seconds"), two.drop(columns="seconds"))
    other = train(config.replace(seed=1)).table("steps")
    assert (one["loss"] != other["loss"]).all()


@pytest.mark.parametrize("name", ["fp32", "fp16", "fp16-pure", "bf16"])
def test_recording_changes_no_loss(make_config: Make, name: Any) -> None:
    precision = PrecisionConfig(name=name)
    seen = train(make_config(precision=precision))
    unseen = train(make_config(precision=precision, record=RecordConfig(probes=())))
    assert seen.table("steps")["loss"].tolist() == unseen.table("steps")["loss"].tolist()
    assert "headroom" not in unseen.tables


def test_the_global_generator_is_left_alone(make_config: Make) -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    train(make_config(model={"dropout": 0.1}, steps=2))
    assert torch.equal(torch.rand(1), expected)


def test_loss_falls_and_validation_is_the_plain_computation(make_config: Make) -> None:
    config = make_config(
        precision=PrecisionConfig(name="fp32"),
        schedule=ScheduleConfig(lr=3e-3),
        steps=40,
        val_every=20,
        val_batches=3,
    )
    steps = train(config).table("steps")
    assert steps["loss"].iloc[-5:].mean() < steps["loss"].iloc[0] - 1
    assert steps["val_loss"].dropna().index.tolist() == [19, 39]
    uneven = train(config.replace(steps=5, val_every=3)).table("steps")
    assert uneven["val_loss"].dropna().index.tolist() == [2, 4]

    corpus = load_corpus(config.data, seq_len=16)
    learner = make_learner(config, torch.device("cpu"))
    for step in range(20):
        inputs, targets = train_batch(corpus.train, seed=0, step=step, batch_size=4, seq_len=16)
        learner.model.zero_grad()
        token_loss(learner.model(inputs), targets).backward()
        for group in learner.optimizer.param_groups:
            group["lr"] = 3e-3
        learner.optimizer.step()
    batches = validation_batches(corpus.val, batch_size=4, seq_len=16, count=3)
    losses = [token_loss(learner.model(x), y).item() for x, y in batches]
    assert steps["val_loss"][19] == pytest.approx(sum(losses) / 3, rel=1e-5)


def test_accumulated_micro_batches_are_seen_as_one_step(make_config: Make) -> None:
    run = train(make_config(accumulation=3, steps=2, record=RecordConfig(every=1)))
    headroom = run.table("headroom")
    assert not headroom.duplicated(["step", "site", "direction"]).any()
    assert run.table("steps")["tokens"].tolist() == [192, 384]


def test_run_json_says_what_was_run(make_config: Make, tmp_path: Path) -> None:
    config = make_config()
    run = train(config, tmp_path / "run")
    again = gradlab.load(tmp_path / "run")
    assert again.config == config
    assert again.verdict == run.verdict
    assert run.verdict.censored
    assert again.info["corpus"]["sha256"] == load_corpus(config.data, seq_len=16).sha256
    model = gradlab.build_model(config.model, device="meta")
    assert again.info["params"] == sum(p.numel() for p in model.parameters())
    assert again.info["device"]["threads"] == 1


def stop_at(step: int, error: BaseException) -> Callable[[Progress], None]:
    def progress(news: Progress) -> None:
        if news.step == step:
            raise error

    return progress


@pytest.mark.parametrize(
    ("error", "status"), [(KeyboardInterrupt(), "interrupted"), (RuntimeError("no"), "error")]
)
def test_a_run_that_stops_keeps_its_rows(
    make_config: Make, tmp_path: Path, error: BaseException, status: str
) -> None:
    with pytest.raises(type(error)):
        train(make_config(), tmp_path / "run", progress=stop_at(5, error))
    run = gradlab.load(tmp_path / "run")
    assert run.status == run.verdict.reason == status
    assert run.table("steps")["step"].tolist() == list(range(6))
    assert not run.verdict.broke
    assert not run.verdict.censored


def test_a_disk_that_fills_up_is_told_and_what_was_written_stays(
    make_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, left = os.replace, [4]

    def full_later(source: str, target: str) -> None:
        if not left[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        left[0] -= 1
        replace(source, target)

    monkeypatch.setattr(os, "replace", full_later)
    config = make_config(record=RecordConfig(window=3, probes=()))
    with pytest.raises(GradlabError, match="no space left"):
        train(config, tmp_path / "run")
    assert gradlab.load(tmp_path / "run").table("steps")["step"].tolist() == list(range(9))


def test_a_folder_that_holds_something_is_refused(make_config: Make, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(GradlabError, match="not empty"):
        train(make_config(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_corpus_past_the_vocabulary_is_refused(make_config: Make) -> None:
    with pytest.raises(GradlabError, match="vocabulary"):
        train(make_config(model={"vocab_size": 64}))


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cpu0", ""])
def test_an_unknown_device_is_refused(make_config: Make, name: str) -> None:
    with pytest.raises(ConfigError, match="unknown device"):
        train(make_config(device=name))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA here")
def test_cuda_where_there_is_none_is_refused(make_config: Make) -> None:
    with pytest.raises(ConfigError, match="there is no CUDA here"):
        train(make_config(device="cuda"))


def test_a_run_that_cannot_begin_leaves_no_folder(make_config: Make, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"steps": 1, "device": "cpu", "batch_size": 1}
    out = tmp_path / "run"
    with pytest.raises(GradlabError, match="no learned scale"):
        gradlab.train("rezero", out=out, branch_scale="none", probes=("scales",), **settings)
    assert not out.exists()
    out.mkdir()
    with pytest.raises(GradlabError, match="no learned scale"):
        gradlab.train("rezero", out=out, branch_scale="none", probes=("scales",), **settings)
    assert list(out.iterdir()) == []  # it was there before
    gradlab.train("rezero", out=out, branch_scale="none", probes=("grad_norms",), **settings)
    with pytest.raises(GradlabError, match="out is given twice"):
        gradlab.train(make_config(), tmp_path / "a", out=tmp_path / "b")
