"""Which steps are kept, and that training does not know."""

import copy
import gc
import json
import math
import os
import warnings
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from bad_loops import BAD, STEPS, Loop, Net, autocast, kept_steps, mean
from torch import Tensor, nn
from torch.optim import SGD
from two_processes import as_first_of_two

import gradlab
from gradlab.crash.folder import KeptSteps, is_kept
from gradlab.errors import GradlabError, GradlabWarning
from gradlab.training.checkpoint import Checkpoint


def one(model: nn.Module, x: Tensor, scale: Any) -> Iterator[Tensor]:
    with autocast(x):
        loss = mean(model(x))
    scale(loss).backward()
    yield loss


class Line(nn.Module):
    """A weight times what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x


def follow(folder: Path, values: list[float], *, told: bool = False, **options: Any) -> None:
    """A step for each value, which its loss is; -1 raises. No step changes what the next finds."""
    model = Line()
    optimizer = SGD(model.parameters(), lr=0.0)
    with gradlab.attach(model, optimizer, keep=folder, **options) as probes:
        for value in values:
            optimizer.zero_grad()
            loss = model(torch.tensor(value))
            if told:
                probes.loss(loss)
            loss.backward()
            if value == -1:
                raise ZeroDivisionError("by the loop")
            model.weight.grad.nan_to_num_(0.0, 0.0, 0.0)  # 0 · NaN would be the weight's end
            optimizer.step()


def why(folder: Path) -> list[str]:
    document = json.loads((folder / "bundle.json").read_text())
    return [reason for one in document["steps"] for reason in one["why"]]


@pytest.mark.parametrize("events", ["exact", "skipped", "sampled"])
def test_training_does_not_know(events: Any, tmp_path: Path) -> None:
    _, bare = Loop(one).train(None, events=events)
    _, kept = Loop(one).train(tmp_path / "crash", events=events)
    for name, x in bare.state_dict().items():
        assert torch.equal(kept.state_dict()[name].nan_to_num(), x.nan_to_num()), name
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in kept.modules())


def test_nothing_is_left_where_no_step_was_bad(tmp_path: Path) -> None:
    follow(tmp_path / "crash", [1.0, 2.0])
    assert not (tmp_path / "crash").exists()
    with pytest.raises(GradlabError, match="no step of the loop was bad"):
        gradlab.replay(tmp_path / "crash", Line())


def test_of_a_streak_the_first_is_kept(tmp_path: Path) -> None:
    nan = math.nan
    follow(tmp_path / "crash", [1.0, nan, nan, nan, 1.0])
    assert kept_steps(tmp_path / "crash") == [1]


@pytest.mark.parametrize(("most", "kept"), [(1, [6]), (2, [3, 6]), (9, [1, 3, 6])])
def test_the_newest_streaks_are_kept(
    most: int, kept: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gradlab.crash.keeper._SHARE", 1e9)  # whatever the time they take
    nan, inf = math.nan, math.inf
    follow(tmp_path / "crash", [1.0, nan, 1.0, inf, nan, 2.0, nan, 3.0], keep_steps=most)
    assert kept_steps(tmp_path / "crash") == kept
    assert len(list((tmp_path / "crash").glob("*.safetensors"))) == len(kept)
    assert gradlab.replay(tmp_path / "crash", Line()).step == 6
    assert gradlab.replay(tmp_path / "crash", Line(), step=kept[0]).step == kept[0]


def test_a_streak_that_began_too_soon_is_kept_later_where_a_scaler_skips_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its steps change nothing: each is as good as the first."""
    values = [math.nan, 1.0, *[math.nan] * 6]
    monkeypatch.setattr("gradlab.crash.keeper._SHARE", 1e-9)
    follow(tmp_path / "not", values)
    assert kept_steps(tmp_path / "not") == [0]
    factors = [math.inf, 1.0, math.inf, math.inf, math.inf]
    left = iter(enumerate(factors))

    def in_time_from_step_3_on(model: nn.Module, x: Tensor, scale: Any) -> Iterator[Tensor]:
        step, factor = next(left)
        if step == 3:
            monkeypatch.setattr("gradlab.crash.keeper._SHARE", 1e9)
        yield from one(model, factor * x, scale)

    Loop(in_time_from_step_3_on).train(tmp_path / "kept")
    assert kept_steps(tmp_path / "kept") == [3]


def test_keeping_takes_a_bounded_share_of_the_time(tmp_path: Path) -> None:
    nan = math.nan
    follow(tmp_path / "crash", [nan, 1.0] * 20, keep_steps=40)
    assert len(kept_steps(tmp_path / "crash")) < 5


def test_what_made_it_bad_is_said(tmp_path: Path) -> None:
    follow(tmp_path / "told", [1.0, math.inf], told=True)
    assert why(tmp_path / "told") == [
        "a gradient was not finite",
        "a loss was not finite",
        "an activation or its gradient was not finite",
    ]


def test_a_lost_loss_alone_is_bad(tmp_path: Path) -> None:
    model = Line()
    optimizer = SGD(model.parameters(), lr=1.0)
    with gradlab.attach(model, optimizer, keep=tmp_path / "crash", probes=[]) as probes:
        for extra in (0.0, math.inf):
            optimizer.zero_grad()
            loss = model(torch.ones(())) + extra
            probes.loss(loss)
            loss.backward()
            optimizer.step()
    assert why(tmp_path / "crash") == ["a loss was not finite"]
    assert gradlab.replay(tmp_path / "crash", Line()).breaks


def test_an_error_of_the_loop_within_a_step_is_kept(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        follow(tmp_path / "crash", [1.0, -1.0])
    assert why(tmp_path / "crash") == ["the loop raised ZeroDivisionError: by the loop"]
    again = gradlab.replay(tmp_path / "crash", Line())
    assert not again.breaks
    assert again.run.table("steps")["step"].tolist() == [1]


def test_an_error_between_steps_is_none(tmp_path: Path) -> None:
    model = Line()
    probes = gradlab.attach(model, SGD(model.parameters(), lr=1.0), keep=tmp_path / "crash")
    probes.close(ValueError("in the logging"))  # a warning would be an error here
    assert not (tmp_path / "crash").exists()


def test_an_inspection_says_where_it_is(tmp_path: Path) -> None:
    probes, _ = Loop(one).train(tmp_path / "crash", out=tmp_path / "run")
    told = " ".join(str(gradlab.inspect(tmp_path / "run")).split())
    assert f"Step {BAD}, in " in told
    assert "model) does it again, down to the operation." in told
    again = gradlab.replay(probes.run().info["kept"]["folder"], Net())
    assert "does it again" not in str(gradlab.inspect(again.run))


def test_an_interruption_is_none(tmp_path: Path) -> None:
    model = Line()
    optimizer = SGD(model.parameters(), lr=1.0)
    probes = gradlab.attach(model, optimizer, keep=tmp_path / "crash")
    model(torch.ones(())).backward()
    probes.close(KeyboardInterrupt())
    assert not is_kept(tmp_path / "crash")


def test_a_loop_that_stops_at_a_lost_loss_has_kept_it(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(1, 1))
    optimizer = SGD(model.parameters(), lr=1.0)
    with gradlab.attach(model, optimizer, keep=tmp_path / "crash") as probes:
        probes.loss(model(torch.tensor([math.nan])))
    assert kept_steps(tmp_path / "crash") == [0]
    assert gradlab.replay(tmp_path / "crash", model).breaks


def test_nothing_of_a_step_outlives_it(tmp_path: Path) -> None:
    kept: list[weakref.ref[Tensor]] = []

    def noted(model: nn.Module, x: Tensor, scale: Any) -> Iterator[Tensor]:
        kept.append(weakref.ref(x))
        yield from one(model, x, scale)
        gc.collect()
        assert sum(ref() is not None for ref in kept[:-1]) <= 1

    Loop(noted).train(tmp_path / "crash")
    gc.collect()
    assert not any(ref() is not None for ref in kept)


def test_a_copy_of_the_model_keeps_nothing(tmp_path: Path) -> None:
    model = Line()
    with gradlab.attach(model, SGD(model.parameters(), lr=1.0), keep=tmp_path / "crash"):
        assert not copy.deepcopy(model)._forward_pre_hooks


def given_something_odd(model: nn.Module, x: Tensor, scale: Any) -> Iterator[Tensor]:
    class Odd(dict[str, Any]):
        """Of the loop's own."""

    with autocast(x):
        loss = mean(model(x, extra=Odd(shift=[torch.zeros(8)])))
    scale(loss).backward()
    yield loss


def changed_in_place(model: nn.Module, x: Tensor, scale: Any) -> Iterator[Tensor]:
    yield from one(model, x, scale)
    x.zero_()


@pytest.mark.parametrize(
    ("passes", "said"),
    [
        (given_something_odd, "the model's argument extra holds a Odd, which JSON cannot hold"),
        (changed_in_place, "has changed in place what it gave the model"),
    ],
)
def test_what_cannot_be_kept_is_said_and_training_goes_on(
    passes: Any, said: str, tmp_path: Path
) -> None:
    with pytest.warns(GradlabWarning, match=said):
        probes, _ = Loop(passes).train(tmp_path / "crash")
    assert len(probes.table("steps")) == STEPS
    assert not (tmp_path / "crash").exists()


@pytest.mark.parametrize("failure", [OSError(28, os.strerror(28)), MemoryError()])
def test_a_full_disk_or_memory_is_said_once(
    failure: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise failure

    monkeypatch.setattr("os.fsync", full)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        follow(tmp_path / "crash", [math.nan, 1.0, math.nan, 1.0])
    assert ["training goes on" in str(one.message) for one in caught] == [True]
    assert not (tmp_path / "crash").exists()


def test_a_folder_that_holds_something_is_refused(tmp_path: Path) -> None:
    follow(tmp_path / "crash", [math.nan])
    for folder, said in ((tmp_path / "crash", "has a kept step already"), (tmp_path, "not empty")):
        with pytest.raises(GradlabError, match=said):
            follow(folder, [1.0])
    assert kept_steps(tmp_path / "crash") == [0]
    (tmp_path / "file").touch()
    with pytest.raises(GradlabError, match="is a file"):
        follow(tmp_path / "file", [1.0])


def test_a_step_that_the_index_does_not_name_is_not_left(tmp_path: Path) -> None:
    kept = KeptSteps(tmp_path / "crash", most=1)
    (tmp_path / "crash" / "bundle.json").mkdir()  # as of a disk that is full by then
    with pytest.raises(GradlabError):
        kept.add(3, Checkpoint({}, {}), {})
    assert not list((tmp_path / "crash").glob("step-*"))


def test_an_optimizer_is_needed(tmp_path: Path) -> None:
    model = Line()
    with pytest.raises(GradlabError, match="give attach the optimizer"):
        gradlab.attach(model, keep=tmp_path / "crash")
    with pytest.raises(GradlabError, match="keep_steps = 0"):
        gradlab.attach(
            model, SGD(model.parameters(), lr=1.0), keep=tmp_path / "crash", keep_steps=0
        )
    assert not (tmp_path / "crash").exists()
    assert not model._forward_pre_hooks


@pytest.fixture
def two_processes() -> Iterator[None]:
    with as_first_of_two():
        yield


@pytest.mark.usefixtures("two_processes")
@pytest.mark.parametrize("options", [{"keep": "crash"}, {"events": "skipped"}])
def test_one_of_several_processes_is_refused(
    options: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = Line()
    with pytest.raises(GradlabError, match="alone"):
        gradlab.attach(model, SGD(model.parameters(), lr=1.0), **options)
    assert not model._forward_pre_hooks
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["cut", "changed", "gone", "renamed"])
def test_a_damaged_file_is_refused(damage: str, tmp_path: Path) -> None:
    follow(tmp_path / "crash", [math.nan])
    (file,) = (tmp_path / "crash").glob("*.safetensors")
    content = file.read_bytes()
    if damage == "cut":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "changed":
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    else:
        file.unlink()
    if damage == "renamed":
        index = tmp_path / "crash" / "bundle.json"
        index.write_text(index.read_text().replace(file.name, "../../etc/passwd"))
    with pytest.raises(GradlabError, match="cannot be used"):
        gradlab.replay(tmp_path / "crash", Line())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ('{"format": "1"}', "is damaged"),
        ('{"format": "1", "steps": []}', "names no step"),
        ('{"format": "0", "steps": []}', "another version of gradlab"),
    ],
)
def test_a_damaged_index_is_refused(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "bundle.json").write_text(text)
    with pytest.raises(GradlabError, match=said):
        gradlab.replay(tmp_path, Line())
