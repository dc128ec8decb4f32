"""A run that is stopped anywhere and resumed ends as one that never was, to the bit."""

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from killed_training import start

import gradlab
from gradlab.config import PrecisionConfig, RecordConfig, RunConfig, ScheduleConfig, StabilityConfig
from gradlab.errors import ConfigError, GradlabError, GradlabWarning
from gradlab.probe_names import PROBES
from gradlab.runs import files
from gradlab.runs.reader import Run
from gradlab.training import loop, resume
from gradlab.training.checkpoint import found, read
from gradlab.training.progress import Progress

Make = Callable[..., RunConfig]


class StoppedError(Exception):
    pass


class Trained:
    """`loop.train`, which keeps what it trained."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        make_learner = loop.make_learner

        def kept(*given: Any) -> Any:
            self.learner = make_learner(*given)
            return self.learner

        monkeypatch.setattr(loop, "make_learner", kept)

    def __call__(self, config: RunConfig, out: Path, **how: Any) -> tuple[Run, dict[str, Any]]:
        run = loop.train(config, out, **how)
        return run, dict(self.learner.model.state_dict())

    def until(self, config: RunConfig, out: Path, step: int, error: type = StoppedError) -> None:
        """The same until after a step, where it fails."""

        def stop(news: Progress) -> None:
            if news.step == step:
                raise error

        with pytest.raises(error):
            loop.train(config, out, resume=True, progress=stop)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Trained:
    return Trained(monkeypatch)


def assert_same(one: tuple[Run, dict[str, Any]], other: tuple[Run, dict[str, Any]]) -> None:
    for name, x in one[1].items():
        assert x.numpy().tobytes() == other[1][name].numpy().tobytes(), name
    assert_same_tables(one[0], other[0])


def assert_same_tables(run: Run, again: Run) -> None:
    assert again.verdict == run.verdict
    assert again.tables == run.tables
    for name in run.tables:
        pd.testing.assert_frame_equal(table(again, name), table(run, name), check_exact=True)


def table(run: Run, name: str) -> pd.DataFrame:
    return run.table(name).drop(columns="seconds", errors="ignore")


# What a checkpoint must hold differs between formats: fp32 copies, the loss scale and its growth.
@pytest.mark.parametrize("name", ["fp32", "fp16", "fp16-pure"])
def test_a_run_stopped_at_several_steps_ends_the_same(
    make_config: Make, tmp_path: Path, trained: Trained, name: Any
) -> None:
    scaling = {"initial_loss_scale": 2.0**23, "growth_interval": 5} if "16" in name else {}
    config = make_config(
        arch="normformer-resscale",
        model={"dropout": 0.1, "n_layers": 1},
        steps=20,
        val_every=7,
        accumulation=2 if name == "fp32" else 1,
        precision=PrecisionConfig(name=name, **scaling),
        stability=StabilityConfig(patience=30, margin=1e9),
        record=RecordConfig(probes=tuple(PROBES), every=4, window=9, checkpoint_every=5),
    )
    whole = trained(config, tmp_path / "whole")
    if name == "fp16":
        assert 1 < whole[0].table("steps")["skipped"].sum() < 12
    for step in (2, 8, 13):  # before the first checkpoint, and between them
        trained.until(config, tmp_path / "parts", step)
    assert_same(whole, trained(config, tmp_path / "parts", resume=True))
    assert not (tmp_path / "parts" / "checkpoints").exists()


def test_a_break_after_a_resume_is_judged_and_led_to_the_same(
    make_config: Make, tmp_path: Path, trained: Trained
) -> None:
    """The steps before an overflow, held back until it comes, and the streak that it begins."""
    config = make_config(
        schedule=ScheduleConfig(kind="ramp", lr_step=0.5),
        stability=StabilityConfig(margin=1e9),
        steps=200,
        model={"n_layers": 1},
        record=RecordConfig(probes=("headroom", "states"), every=50, checkpoint_every=2),
    )
    whole = trained(config, tmp_path / "whole")
    verdict = whole[0].verdict
    assert verdict is not None
    assert verdict.broke
    assert verdict.detected_step is not None
    for step in (verdict.step - 2, verdict.step + 4, verdict.detected_step):
        trained.until(config, tmp_path / "parts", step)
    assert_same(whole, trained(config, tmp_path / "parts", resume=True))


def test_an_interrupt_saves_a_checkpoint_at_its_step(
    make_config: Make, tmp_path: Path, trained: Trained
) -> None:
    config = make_config(record=RecordConfig(window=5))
    whole = trained(config, tmp_path / "whole")
    trained.until(config, tmp_path / "run", 7, KeyboardInterrupt)
    (saved,) = found(tmp_path / "run")
    assert read(saved).facts["step"] == 8
    steps: list[int] = []
    resumed = trained(
        config, tmp_path / "run", resume=True, progress=lambda news: steps.append(news.step)
    )
    assert steps == [8, 9, 10, 11]
    assert_same(whole, resumed)


def test_none_are_saved_where_none_are_wanted(make_config: Make, tmp_path: Path) -> None:
    config = make_config(record=RecordConfig(checkpoint_every=0))

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop.train(config, tmp_path / "run", between_steps=stop)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_finished_run_is_returned_as_it_is(make_config: Make, tmp_path: Path) -> None:
    config = make_config(steps=2)
    loop.train(config, tmp_path / "run", resume=True)  # nothing there yet: it begins
    before = (tmp_path / "run" / "run.json").stat()
    again = loop.train(config, tmp_path / "run", resume=True)
    assert again.status == "finished"
    assert (tmp_path / "run" / "run.json").stat() == before


def test_another_config_is_refused_with_what_differs(
    make_config: Make, tmp_path: Path, trained: Trained
) -> None:
    config = make_config(record=RecordConfig(checkpoint_every=2))
    trained.until(config, tmp_path / "run", 5)
    with pytest.raises(GradlabError, match=r"another run \(--seed is 0 there and 1 here\)"):
        loop.train(config.replace(seed=1), tmp_path / "run", resume=True)
    with pytest.raises(ConfigError, match="resume needs out"):
        loop.train(config, resume=True)
    # The checkpoints of one run in the folder of another.
    other = config.replace(seed=1)
    trained.until(other, tmp_path / "other", 0)
    (tmp_path / "run" / "checkpoints").rename(tmp_path / "other" / "checkpoints")
    with pytest.raises(GradlabError, match=r"holds another run \(--seed is 0 there and 1 here\)"):
        loop.train(other, tmp_path / "other", resume=True)


def test_another_text_is_refused(make_config: Make, tmp_path: Path, trained: Trained) -> None:
    text = tmp_path / "text.txt"
    text.write_text("one text " * 300)
    config = make_config(data={"corpus": str(text)})
    trained.until(config, tmp_path / "run", 3)
    text.write_text("two texts " * 300)
    with pytest.raises(GradlabError, match="begun on another text"):
        loop.train(config, tmp_path / "run", resume=True)


def truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


def with_a_bit_flipped(content: bytes) -> bytes:
    at = random.Random(len(content)).randrange(len(content))
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


@pytest.mark.parametrize("damage", [truncated, with_a_bit_flipped])
def test_the_checkpoint_before_a_damaged_one_is_used(
    make_config: Make, tmp_path: Path, trained: Trained, damage: Callable[[bytes], bytes]
) -> None:
    config = make_config(record=RecordConfig(checkpoint_every=2, window=3))
    whole = trained(config, tmp_path / "whole")
    trained.until(config, tmp_path / "run", 8)
    newest, *_ = found(tmp_path / "run")
    newest.write_bytes(damage(newest.read_bytes()))
    with pytest.warns(GradlabWarning, match=f"{newest.name}: .* not what was saved.*at step 6"):
        assert_same(whole, trained(config, tmp_path / "run", resume=True))


def test_without_a_checkpoint_that_can_be_used_nothing_is_lost(
    make_config: Make, tmp_path: Path, trained: Trained
) -> None:
    config = make_config(record=RecordConfig(checkpoint_every=2, window=3))
    trained.until(config, tmp_path / "run", 8)
    rows = len(gradlab.load(tmp_path / "run").table("steps"))
    for path in found(tmp_path / "run"):
        path.write_bytes(b"")
    for _ in range(2):  # and it gives the folder up
        with pytest.raises(GradlabError, match=r"remove .*checkpoints to begin again at step 0"):
            loop.train(config, tmp_path / "run", resume=True)
    assert len(gradlab.load(tmp_path / "run").table("steps")) == rows


def test_damaged_rows_make_it_go_back_further(
    make_config: Make, tmp_path: Path, trained: Trained
) -> None:
    config = make_config(record=RecordConfig(checkpoint_every=3, window=50))
    whole = trained(config, tmp_path / "whole")
    trained.until(config, tmp_path / "run", 7)
    sorted((tmp_path / "run" / "steps").iterdir())[1].write_bytes(b"")  # of steps 3 to 5
    with pytest.warns(GradlabWarning, match=r"steps/part.* is damaged.*at step 3"):
        assert_same(whole, trained(config, tmp_path / "run", resume=True))


def test_what_else_lies_in_the_folder_stays(
    make_config: Make, tmp_path: Path, trained: Trained
) -> None:
    config = make_config(steps=4, record=RecordConfig(checkpoint_every=2))
    trained.until(config, tmp_path / "run", 2)
    for folder in (tmp_path / "run", tmp_path / "run" / "checkpoints"):
        (folder / "mine.txt").write_text("precious")
        (folder / ".step-00000002.abc.safetensors.1.tmp").write_text("half a checkpoint")
    loop.train(config, tmp_path / "run", resume=True)
    left = [
        p for p in (tmp_path / "run").rglob("*") if p.suffix in (".txt", ".tmp", ".safetensors")
    ]
    assert {path.name for path in left} == {"mine.txt"}
    assert len(left) == 2


def test_a_full_disk_is_told_once_and_training_goes_on(
    make_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def full(descriptor: int) -> None:
        if os.fstat(descriptor).st_size > 30_000:  # a checkpoint's, not the rows'
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(files.os, "fsync", full)
    config = make_config(record=RecordConfig(checkpoint_every=2, probes=()))
    with pytest.warns(
        GradlabWarning, match=r"no checkpoint could be saved after step 1 .*no space"
    ) as told:
        run = loop.train(config, tmp_path / "run")
    assert len(told) == 1
    assert run.status == "finished"
    assert len(run.table("steps")) == 12


def test_other_bits_are_warned_of(make_config: Make, tmp_path: Path, trained: Trained) -> None:
    config = make_config(record=RecordConfig(checkpoint_every=2))
    trained.until(config, tmp_path / "run", 4)
    torch.set_num_threads(2)
    with pytest.warns(GradlabWarning, match=r"threads was 1 and is 2.*may differ in their last"):
        run = loop.train(config, tmp_path / "run", resume=True)
    assert run.table("steps")["step"].tolist() == list(range(12))


@pytest.mark.parametrize(
    ("before", "remedy"),
    [({"threads": 1}, "OMP_NUM_THREADS=1"), ({"threads": 2}, None), ({}, None)],
)
def test_the_threads_of_before_are_advised_where_they_are_known_and_others(
    before: dict[str, Any], remedy: str | None
) -> None:
    with pytest.warns(GradlabWarning, match="in their last bits") as told:
        resume._warn_of_other_bits({"torch": "0", **before}, {"torch": "1", "threads": 2})
    sentence = str(told[0].message)
    assert (remedy in sentence) if remedy else ("OMP_NUM_THREADS" not in sentence)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL here")
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "kills",
    [pytest.param(3, marks=pytest.mark.slow), pytest.param(50, marks=pytest.mark.long)],
)
def test_a_run_killed_at_any_moment_ends_the_same(
    make_config: Make, tmp_path: Path, kills: int
) -> None:
    """A real process, really killed, at moments drawn over all that it does."""
    config = make_config(
        arch="normformer",
        model={"dropout": 0.1, "n_layers": 1},
        steps=40 + 4 * kills,
        val_every=7,
        precision=PrecisionConfig(name="fp32"),
        record=RecordConfig(probes=tuple(PROBES), every=3, window=4, checkpoint_every=3),
    )
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    start(config.replace(steps=1), tmp_path / "first").join()  # imports are not the run's
    began = time.monotonic()
    start(config, whole).join()
    seconds = time.monotonic() - began
    moments, killed = random.Random(kills), 0

    def finish() -> None:
        process = start(config, parts)
        process.join()
        assert process.exitcode == 0
        assert_same_tables(gradlab.load(whole), gradlab.load(parts))
        weights = [tmp_path / f"{name}.weights" for name in ("whole", "parts")]
        assert weights[0].read_text() == weights[1].read_text()
        weights[1].unlink()

    while killed < kills:
        process = start(config, parts)
        process.join(moments.uniform(0, min(seconds, 4 * seconds / kills)))
        if process.exitcode is not None:  # it came to its end between two kills: once more
            finish()
            shutil.rmtree(parts)
            continue
        process.kill()
        process.join()
        if (parts / "run.json").exists():
            run = gradlab.load(parts)
            held = run.table("steps")["step"]
            assert held.tolist() == list(range(len(held)))  # none twice, none left out
            if run.verdict is not None:  # finished, without the digest of its weights: once more
                shutil.rmtree(parts)
                continue
        killed += 1
    finish()
