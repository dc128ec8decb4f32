"""A run is gone back in, and its steps come again: the same, or with what was changed."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from planted_break import BREAK, PATIENCE, planted
from tiny_runs import config_of

import gradlab
from gradlab.config import PrecisionConfig, RecordConfig, RunConfig, ScheduleConfig, StabilityConfig
from gradlab.errors import ConfigError, GradlabError
from gradlab.models.build import build_model
from gradlab.probe_names import PROBES
from gradlab.replays.again import _perturb
from gradlab.replays.changes import SETTINGS, Changes, read_settings
from gradlab.replays.same import first_difference
from gradlab.runs.parts import digest
from gradlab.runs.reader import Run
from gradlab.training.checkpoint import LEAD, Checkpoint, found, read, step_of
from gradlab.training.loop import train
from gradlab.training.step import make_learner

Make = Callable[..., RunConfig]

FIRST = BREAK - LEAD
"""Where a replay begins unless told."""

KEPT = 8
"""The step of the snapshot that the run has kept: the first of those every 8 steps."""


@pytest.fixture(scope="session")
def made(corpus_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return train(planted(config_of(corpus_file)), tmp_path_factory.mktemp("run") / "run").path


@pytest.fixture
def broken(made: Path) -> Run:
    return gradlab.load(made)


def test_a_broken_run_keeps_one_snapshot_from_long_enough_before(broken: Run) -> None:
    assert broken.verdict.step == BREAK
    (kept,) = found(broken.path)
    assert step_of(kept) == KEPT <= BREAK - LEAD


@pytest.mark.parametrize("name", ["fp32", "fp16", "fp16-pure"])
def test_unchanged_it_is_the_same_to_the_bit(make_config: Make, tmp_path: Path, name: Any) -> None:
    """With dropout, validation, accumulation and all tables; a break that a ramp brings."""
    config = make_config(
        arch="normformer-resscale",
        model={"n_layers": 1, "dropout": 0.1},
        steps=300,
        accumulation=2 if name == "fp16" else 1,
        schedule=ScheduleConfig(kind="ramp", lr_step=0.1),
        precision=PrecisionConfig(name=name),
        stability=StabilityConfig(patience=3, margin=1.0),
        val_every=7,
        record=RecordConfig(probes=tuple(PROBES), every=5, checkpoint_every=3),
    )
    run = train(config, tmp_path / "run")
    assert run.verdict is not None
    assert run.verdict.broke
    first = run.verdict.step - 6
    made = gradlab.replay(run.path, from_step=first)
    assert made.difference is None
    assert made.snapshot is not None
    assert made.run.verdict == run.verdict
    assert made.steps == (first, run.verdict.detected_step)
    recorded = run.table("steps", between=made.steps)
    again = made.run.table("steps")
    for column in set(recorded) - {"seconds"}:
        assert recorded[column].tolist() == pytest.approx(
            again[column].tolist(), abs=0, nan_ok=True
        )
    looked = made.run.table("headroom")["step"].unique()
    assert set(looked) == set(range(first, made.steps[1] + 1))


def test_from_any_step_with_or_without_a_snapshot(broken: Run) -> None:
    for step in (KEPT, 33, BREAK):
        made = gradlab.replay(broken.path, from_step=step, probes=["none"])
        assert made.snapshot == KEPT
        assert made.steps == (step, BREAK + PATIENCE - 1)
        assert made.is_same, made.difference
        assert "from step 0" not in made.sentence
    made = gradlab.replay(broken.path, from_step=7, probes=["none"])
    assert "from step 0, as the run keeps no snapshot from before step 7" in made.sentence
    assert made.snapshot is None
    assert made.is_same


@pytest.mark.parametrize(
    ("how", "breaks"),
    [
        ({"precision": "fp32"}, None),
        ({"set": {"growth_factor": 2.0}}, None),
        ({"set": {"initial_loss_scale": 32.0}}, FIRST + BREAK),  # good steps count from there
        ({"precision": "fp16-pure"}, BREAK),
        ({"lr_scale": 0.5, "skip_batch": True}, BREAK),
        ({"set": {"attention": "sdpa", "clip_norm": 0.1, "weight_decay": 0.0}}, BREAK),
    ],
)
def test_what_is_changed_decides_whether_it_breaks(
    broken: Run, how: dict[str, Any], breaks: int | None
) -> None:
    made = gradlab.replay(broken, probes=["none"], beyond=20, **how)
    steps = made.run.table("steps")["step"]
    assert steps.min() == FIRST
    assert made.broke_at == breaks
    if breaks is None:
        assert steps.max() == BREAK + PATIENCE - 1 + 20
        assert f"does not break up to step {steps.max()}" in made.sentence
    else:
        when = "as recorded" if breaks == BREAK else f"{breaks - BREAK} later than recorded"
        assert when in made.sentence


def test_the_learning_rate_goes_on_rising_scaled(make_config: Make, tmp_path: Path) -> None:
    ramp = ScheduleConfig(kind="ramp", lr_step=1e-6)
    run = train(planted(make_config, schedule=ramp), tmp_path / "run")
    lr = gradlab.replay(run, lr_scale=0.25, probes=["none"]).run.table("steps")["lr"]
    assert lr.tolist() == pytest.approx([s * 0.25e-6 for s in range(FIRST, FIRST + len(lr))])


def test_a_batch_left_out_lets_those_after_it_come_earlier(
    make_config: Make, tmp_path: Path
) -> None:
    """Weights that do not change make of a step's loss a function of its batch."""
    still = ScheduleConfig(lr=1e-30)
    model = {"n_layers": 1, "dropout": 0.0}
    config = planted(make_config, schedule=still, model=model, stop_when_destabilised=False)
    run = train(config.replace(steps=BREAK + 8), tmp_path / "run")
    made = gradlab.replay(run, skip_batch=True, probes=["none"])
    before, after = (run.table("steps")["loss"].to_numpy(), made.run.table("steps"))
    for step, loss in zip(after["step"], after["loss"], strict=True):
        if step < BREAK:
            assert loss == before[step]
        elif step + 1 < len(before):
            assert loss == before[step + 1]
    assert made.difference is not None
    assert made.difference.step == BREAK


def test_weights_go_into_other_formats_and_come_out(make_config: Make, tmp_path: Path) -> None:
    """What fp16-pure trains are its fp32 copies: fp32 goes on from those."""
    config = planted(make_config)
    pure = config.replace(precision=config.precision.replace(name="fp16-pure"))
    run = train(pure, tmp_path / "run")
    saved = read(found(run.path)[0])
    count = sum(name.startswith("master.") for name in saved.tensors)
    masters = [saved.tensors[f"master.{index}"] for index in range(count)]
    made = gradlab.replay(
        run, from_step=KEPT, precision="fp32", lr_scale=1e-30, probes=["optimizer"], beyond=0
    )
    rms = made.run.table("optimizer", between=(KEPT, KEPT))["param_rms"]
    expected = [x.double().square().mean().sqrt().item() for x in masters]
    assert rms.tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("kept", [True, False])
def test_a_repetition_differs_in_one_weight(make_config: Make, kept: bool) -> None:
    precision = PrecisionConfig(name="fp16-pure", master_weights=kept)
    learner = make_learner(make_config(precision=precision), torch.device("cpu"))
    for number in range(8):
        before = [x.detach().clone() for x in learner.trained]
        _perturb(learner, number)
        both = zip(before, learner.trained, strict=True)
        assert sum(int((x != y).sum()) for x, y in both) == 1


def test_a_run_that_did_not_break_can_be_gone_back_in(make_config: Make, tmp_path: Path) -> None:
    run = train(make_config(steps=12))  # in memory
    with pytest.raises(GradlabError, match=r"did not break.*--from.*0 to 11"):
        gradlab.replay(run)
    made = gradlab.replay(run, from_step=5)
    assert made.is_same
    assert "which did not break, does not break up to step 11" in made.sentence


def test_a_run_that_was_stopped_is_replayed_from_its_checkpoint(
    make_config: Make, tmp_path: Path
) -> None:
    def stop(news: Any) -> None:
        if news.step == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(make_config(record=RecordConfig(checkpoint_every=4)), tmp_path / "run", progress=stop)
    made = gradlab.replay(tmp_path / "run", from_step=9)
    assert made.snapshot == 8
    assert made.is_same
    assert made.run.table("steps")["step"].tolist() == [9, 10, 11]
    assert "does not break up to step 11" in made.sentence


def test_what_differs_is_said_with_where_it_was_made(broken: Run, monkeypatch: Any) -> None:
    monkeypatch.setattr(torch, "__version__", "1.0")
    made = gradlab.replay(broken, probes=["none"], set={"seed": 1})
    assert made.difference is not None
    assert made.difference.step == FIRST
    assert made.elsewhere
    assert "torch was" in made.elsewhere[0]


@pytest.mark.parametrize("first", [-1, BREAK + 1, 10**6])
def test_a_step_past_the_break_is_refused(broken: Run, first: int) -> None:
    with pytest.raises(GradlabError, match=rf"step {first} .* broke at step {BREAK}; give 0 to"):
        gradlab.replay(broken, from_step=first)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"set": {"epss": 1}}, "unknown setting 'epss': did you mean 'eps'"),
        ({"set": {"n_layers": 3}}, "n_layers changes what the model computes"),
        ({"set": {"qkv_norm": True}}, "train again from step 0"),
        ({"set": {"eps": "many"}}, "eps"),
        ({"set": {"eps": -1.0}}, "eps"),
        ({"precision": "fp8"}, "unknown precision 'fp8'"),
        ({"precision": "fp32", "set": {"precision": "bf16"}}, "set twice"),
        ({"lr_scale": 0.0}, "lr_scale"),
        ({"lr_scale": float("nan")}, "lr_scale"),
        ({"probes": ["headrom"]}, "headroom"),
        ({"beyond": -1}, "beyond"),
        ({"set": {"device": "tpu"}}, "device"),
    ],
)
def test_what_cannot_be_changed_is_refused_before_anything_is_made(
    broken: Run, tmp_path: Path, how: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        gradlab.replay(broken, out=tmp_path / "again", **how)
    assert not (tmp_path / "again").exists()


def test_settings_are_read_from_words() -> None:
    words = ["eps=1e-6", "clip-norm=none", "attention=sdpa", "master_weights=true"]
    read = read_settings(words)
    assert read == {"eps": 1e-6, "clip_norm": None, "attention": "sdpa", "master_weights": True}
    for wrong in (["eps"], ["=1"], ["eps="], ["eps=1", "eps=2"]):
        with pytest.raises(ConfigError):
            read_settings(wrong)


def test_no_setting_changes_the_parameters(make_config: Make) -> None:
    """Every setting that is a model's own leaves its parameters as they are."""
    config = make_config()
    shapes = {n: x.shape for n, x in build_model(config.model).named_parameters()}
    for name, value in {"attention": "sdpa", "dropout": 0.5}.items():
        assert name in SETTINGS
        changed = Changes({name: value}).config(config)
        assert {n: x.shape for n, x in build_model(changed.model).named_parameters()} == shapes
    assert set(SETTINGS) & set(type(config.model).model_fields) == {"attention", "dropout"}


def test_another_text_is_refused(make_config: Make, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("one text " * 300)
    run = train(planted(make_config, data={"corpus": str(text)}), tmp_path / "run")
    text.write_text("two texts " * 300)
    with pytest.raises(GradlabError, match="trained on another text"):
        gradlab.replay(run)


def renamed_to(path: Path, content: bytes, step: int = KEPT) -> None:
    """The file with other content under the name that this has."""
    path.unlink()
    path.with_name(f"step-{step:08d}.{digest(content)}.safetensors").write_bytes(content)


def damaged(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def of_another_config(path: Path) -> None:
    saved = read(path)
    config = {**saved.facts["config"], "seed": 5}
    renamed_to(path, Checkpoint({**saved.facts, "config": config}, saved.tensors).to_bytes())


def of_another_step(path: Path) -> None:
    renamed_to(path, path.read_bytes(), 9)


def of_another_model(path: Path) -> None:
    saved = read(path)
    tensors = {n: x for n, x in saved.tensors.items() if not n.startswith("model.embed")}
    renamed_to(path, Checkpoint(saved.facts, tensors).to_bytes())


def without_its_judge(path: Path) -> None:
    saved = read(path)
    facts = {n: x for n, x in saved.facts.items() if n not in ("judged", "step")}
    renamed_to(path, Checkpoint(facts, saved.tensors).to_bytes())


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (damaged, "not what was saved"),
        (of_another_config, "seed is 5 there and 0 here"),
        (of_another_step, "another step"),
        (of_another_model, "another model"),
        (without_its_judge, "cannot be used"),
    ],
)
def test_a_snapshot_that_was_changed_is_refused(
    broken: Run, tmp_path: Path, damage: Callable[[Path], None], says: str
) -> None:
    run = shutil.copytree(broken.path, tmp_path / "run")
    (path,) = found(run)
    damage(path)
    with pytest.raises(GradlabError, match=says):
        gradlab.replay(run)


def test_a_run_of_another_loop_is_refused(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters())
    with gradlab.attach(model, optimizer, out=tmp_path / "mine"):
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
    with pytest.raises(GradlabError, match=r"gradlab\.attach in a loop of its own"):
        gradlab.replay(tmp_path / "mine")


def test_a_number_that_differs_is_found(broken: Run, make_config: Make, tmp_path: Path) -> None:
    other = train(planted(make_config, seed=1), tmp_path / "other")
    difference = first_difference(broken, other, (0, BREAK))
    assert difference is not None
    assert difference.step == 0
    assert first_difference(broken, broken, (0, BREAK)) is None
    assert np.isfinite(difference.recorded)


def test_each_break_of_a_stability_test_is_reproduced(corpus_file: Path, tmp_path: Path) -> None:
    """The default study in short: its architectures, its number formats, its probes, its ramp."""
    study = gradlab.studies.Stability(
        width=16,
        model={"n_heads": 2, "n_layers": 1, "max_seq_len": 16},
        batch_size=4,
        seeds=1,
        lr_step=0.1,
        patience=3,
        steps=300,
        checkpoint_every=3,
        corpus=str(corpus_file),
        device="cpu",
    )
    for config in study.configs():
        run = train(config, tmp_path / config.arch)
        assert run.verdict is not None
        assert run.verdict.step is not None
        made = gradlab.replay(run, from_step=max(3, run.verdict.step - 5))
        assert made.snapshot is not None
        assert made.is_same, (config.arch, made.difference)
        assert made.broke_at == run.verdict.step
