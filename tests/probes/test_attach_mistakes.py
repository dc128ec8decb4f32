"""What cannot be attached or recorded is said in a sentence, and leaves nothing behind."""

from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import pytest
import torch
from small_training import hooks_of, make, train
from torch import nn

import gradlab
from gradlab.errors import GradlabError, GradlabWarning
from gradlab.probes import (
    GradientNorms,
    Headroom,
    LearnedScales,
    OptimizerHealth,
    Probe,
    Reading,
    StateHealth,
)


def test_a_loop_whose_steps_are_never_seen_is_told_once() -> None:
    model = nn.Linear(1, 1)
    loss = model(torch.ones(1))

    def passes() -> None:
        for _ in range(1500):
            loss.backward(retain_graph=True)

    probes = gradlab.attach(model, probes=[GradientNorms(every=lambda _: False)])
    with pytest.warns(GradlabWarning, match="1000 backward passes and no step") as said:
        passes()
    probes.close()
    assert len(said) == 1


def refused(match: str, **options: Any) -> None:
    model, optimizer = make()
    options = {"model": model, "optimizer": optimizer} | options
    with pytest.raises(GradlabError, match=match):
        gradlab.attach(**options)
    assert hooks_of(model, optimizer) == []
    gradlab.attach(model, optimizer).close()  # nothing keeps it from being attached


class OnMps(nn.Parameter):
    """Looks as if it lay there."""

    device = torch.device("mps")


def test_what_cannot_be_attached_is_refused_in_a_sentence(tmp_path: Path) -> None:
    stranger = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    refused("nothing to probe", model=nn.ReLU(), optimizer=None)
    elsewhere = nn.ParameterList([OnMps(torch.ones(1))])
    refused("on MPS, which has no float64", model=elsewhere, optimizer=None)
    refused("nothing to probe", model=make()[0].requires_grad_(False), optimizer=None)
    refused("holds none of the model's parameters", optimizer=stranger)
    refused(r"no parameters fit 'w\*': there are 0.weight", probes=[GradientNorms("w*")])
    refused("no modules or parameters fit 'x'", probes=[Headroom("x")])
    refused("no learned scale", model=nn.Linear(2, 2), optimizer=None, probes=[LearnedScales()])
    refused("needs the optimizer", optimizer=None, probes=[OptimizerHealth()])
    refused("at every step", every=0)
    refused("meta: JSON cannot hold it", meta={"a": object()})
    refused("meta: JSON cannot hold it", meta={1: "a"})
    refused("meta: JSON cannot hold it", meta="pre")
    refused("meta: JSON cannot hold it", meta={"a": "\ud800"})  # no file can
    refused("give at most", meta={"a": "b" * 100_000})
    refused("a number of steps, or a function", every="often")
    refused("window = 0", window=0)
    refused("window = '50'", window="50")
    refused("scaler = float: give the torch.amp.GradScaler", scaler=65536.0)
    refused("the class GradientNorms is no probe", probes=[GradientNorms])
    refused("grad_norms is no probe", probes=["grad_norms"])
    refused("the class object is no probe", probes=object())
    refused("probes: scores is no probe", probes="scores")
    refused("attach takes the model first", model=stranger)
    refused("give the torch optimizer", optimizer=[nn.Parameter(torch.ones(1))])
    refused("is not empty", out=tmp_path / "full")


class NoSink:
    def write(self, table: str, columns: Any) -> None:
        """Take rows, and never end."""


@pytest.mark.parametrize(
    "options",
    [
        *({"first_step": given} for given in (-1, "a", 1.0, True, None, 10**30)),
        *({"window": given} for given in (0, -1, "50", 2.5, True, None, 10**30)),
        *({"out": given} for given in (5, "", " ", "a\0b", b"a", True, [], "\udcff", Path("a\0b"))),
        *({"memory": given} for given in ("x", 1, 0, [])),
        *({"group": given} for given in (3, "world", object())),
        *({"sinks": given} for given in (3, [3], "x", [NoSink()], [NoSink], {"a": 1}, None)),
        *({"scaler": given} for given in (1.0, "x", torch.amp.GradScaler)),
        *({"every": given} for given in (0, -1, 1.5, True, None, "x", [1])),
        *({"probes": given} for given in ([None], [GradientNorms], "x", [[GradientNorms()]], 1)),
        *({"optimizer": given} for given in ("x", 1, [1], [None], torch.optim.SGD)),
        *({"model": given} for given in (None, "x", nn.Linear, [nn.Linear(1, 1)])),
    ],
    ids=lambda options: next(iter(options)),
)
def test_every_wrong_argument_ends_in_a_sentence(options: dict[str, Any]) -> None:
    refused(r"\.$", **options)


def test_the_same_probe_twice_is_refused() -> None:
    norms = GradientNorms()
    refused("GradientNorms is there twice", probes=[norms, norms])
    refused("give the torch optimizer", optimizer=torch.optim.lr_scheduler.StepLR(make()[1], 1))


def test_the_home_folder_is_meant_by_a_tilde(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    model, optimizer = make()
    for out in ("~/runs/text", Path("~/runs/path")):
        with gradlab.attach(model, optimizer, out=out) as probes:
            train(model, optimizer, 1)
        assert len(probes.table("steps")) == 1
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == ["path", "text"]


class Steps(Probe):
    table = "steps"
    columns: ClassVar = {"x": float}


def test_a_cadence_that_fails_at_once_leaves_nothing_behind() -> None:
    model, optimizer = make()
    with pytest.raises(ZeroDivisionError):
        gradlab.attach(model, optimizer, every=lambda step: 1 / step > 0)
    assert hooks_of(model, optimizer) == []
    train(model, optimizer, 1)


@pytest.mark.parametrize("name", ["sample", "count", "lead", "operations"])
@pytest.mark.parametrize("value", [-1, 0.5, "3", True])
def test_a_number_of_looks_is_a_whole_one(name: str, value: Any) -> None:
    with pytest.raises(GradlabError, match=f"{name} = .* from [01] "):
        Headroom(**{name: value})


def test_a_probe_at_work_is_refused_and_one_that_is_closed_works_as_a_new_one() -> None:
    def kinds() -> list[Probe]:
        return [GradientNorms(), Headroom(), StateHealth(), OptimizerHealth(), LearnedScales("*")]

    def recorded(probes: list[Probe], used: bool) -> dict[str, pd.DataFrame]:
        model, optimizer = make()
        with gradlab.attach(model, optimizer, probes=probes) as recording:
            if used:
                refused("GradientNorms is at work in another attach", probes=probes)
            train(model, optimizer, 2)
        run = recording.run()
        return {
            name: run.table(name).drop(columns="seconds", errors="ignore") for name in run.tables
        }

    probes = kinds()
    refused("fit 'x'", probes=[*probes, Headroom("x")])
    recorded(probes, used=True)
    again, expected = recorded(probes, used=False), recorded(kinds(), used=False)
    for name, table in expected.items():
        pd.testing.assert_frame_equal(again[name], table)


class Rows(list[str]):
    """A sink that is a list: empty ones are false, and equal."""

    def __init__(self, fails: bool) -> None:
        super().__init__()
        self.fails = fails

    def write(self, table: str, columns: Any) -> None:
        if self.fails:
            raise OSError("no")
        self.append(table)

    def close(self) -> None:
        pass


def test_a_sink_may_be_empty_and_equal_to_another() -> None:
    model, optimizer = make()
    sinks = [Rows(fails=False), Rows(fails=True), Rows(fails=False)]
    probes = gradlab.attach(model, optimizer, probes=[GradientNorms()], sinks=sinks)
    train(model, optimizer, 1)
    with pytest.warns(GradlabWarning, match="recording stops here"):
        probes.close()
    assert [sorted(rows) for rows in sinks] == [
        ["grad_norms", "steps"],
        [],
        ["grad_norms", "steps"],
    ]


@pytest.mark.parametrize(("out", "keep"), [("a", "a/crash"), ("a/run", "a"), ("b/a", "b/c")])
def test_out_and_keep_may_lie_in_each_other(out: str, keep: str, tmp_path: Path) -> None:
    folders = {"out": tmp_path / out, "keep": tmp_path / keep}
    refused("fit 'x'", probes=[Headroom("x")], **folders)
    assert not any(folder.exists() for folder in folders.values())
    model, optimizer = make()
    with gradlab.attach(model, optimizer, **folders):
        train(model, optimizer, 1)
    assert len(gradlab.load(folders["out"]).table("steps")) == 1
    refused("both", out=tmp_path / "same", keep=tmp_path / "same")
    assert not (tmp_path / "same").exists()


class Changing(Probe):
    table = "mine"
    columns: ClassVar = {"a": float, "b": float}

    def __init__(self, *given: dict[str, int]) -> None:
        self.given = given

    def begin(self, step: int) -> None:
        self.step = step

    def after_step(self) -> Reading:
        columns = self.given[self.step % len(self.given)]
        return Reading({}, {name: torch.ones(count) for name, count in columns.items()})


@pytest.mark.parametrize("other", [{"a": 1}, {"a": 1, "b": 2}, {"a": 1, "b": 1, "c": 1}])
@pytest.mark.parametrize("first", [True, False])
def test_rows_of_ones_own_with_other_columns_are_left_out(
    other: dict[str, int], first: bool
) -> None:
    right = {"a": 1, "b": 1}
    given = [other, right] if first else [right, other]
    model, optimizer = make()
    probes = gradlab.attach(model, optimizer, probes=[Changing(*given)])
    train(model, optimizer, 4)
    with pytest.warns(GradlabWarning, match="Changing gives rows of mine with the columns step"):
        probes.close()
    assert probes.table("mine").step.tolist() == ([1, 3] if first else [0, 2])


def test_a_column_without_a_length_is_left_out() -> None:
    class Endless(Changing):
        def rows(self, step: int, reading: Reading) -> dict[str, Any]:
            return {"mine": {"step": [step], "a": iter([1.0]), "b": [1.0]}}

    model, optimizer = make()
    probes = gradlab.attach(model, optimizer, probes=[Endless({"a": 1, "b": 1})])
    train(model, optimizer, 1)
    with pytest.warns(GradlabWarning, match="Endless gives rows of mine with the columns step"):
        probes.close()


@pytest.mark.parametrize("how", ["frozen", "later", "added"])
def test_a_parameter_that_is_trained_only_later_is_told_once(how: str) -> None:
    model, _ = make()
    late = next(iter(model.parameters()))
    late.grad = torch.ones_like(late)  # of an earlier training: frozen, it is not trained
    others = [p for p in model.parameters() if p is not late]
    late.requires_grad_(how == "later")
    optimizer = torch.optim.SGD([*others, late] if how == "frozen" else others, lr=0.1)
    with gradlab.attach(model, optimizer, probes=[GradientNorms("*bias")]):
        late.requires_grad_(False)
        train(model, optimizer, 2)
        late.requires_grad_(True)
        if how != "frozen":
            optimizer.add_param_group({"params": [late]})
        if how == "later":  # it has its hooks
            train(model, optimizer, 2)
            return
        with pytest.warns(GradlabWarning, match="is trained from step 2 on") as said:
            train(model, optimizer, 3)
    assert len(said) == 1


def test_a_loss_may_be_a_number_and_one_noted_too_late_is_told() -> None:
    model, optimizer = make()
    with gradlab.attach(model, optimizer, probes=[GradientNorms()]) as probes:
        probes.loss(0.5)
        train(model, optimizer, 1)
    assert probes.table("steps")["loss"].tolist() == [0.5]
    probes = gradlab.attach(model, optimizer, probes=[GradientNorms()])
    train(model, optimizer, 1)
    probes.loss(0.5)
    with pytest.raises(GradlabError, match="a loss of type NoneType: give one number"):
        probes.loss(None)  # type: ignore[arg-type]
    with pytest.warns(GradlabWarning, match="before the step"):
        probes.close()


def test_a_scaler_that_does_not_step_the_optimizer_is_told_once() -> None:
    model, optimizer = make()
    scaler = torch.amp.GradScaler("cpu")
    with (
        gradlab.attach(model, optimizer, scaler=scaler, probes=[GradientNorms()]),
        pytest.warns(GradlabWarning, match="does not step this optimizer") as said,
    ):
        train(model, optimizer, 3)
    assert len(said) == 1


def test_a_table_of_ones_own_cannot_take_a_name_that_is_taken() -> None:
    refused("gradlab's own", probes=[Steps()])


def test_attached_twice_is_refused_and_the_first_goes_on() -> None:
    model, optimizer = make()
    with gradlab.attach(model, optimizer, probes=[GradientNorms()]) as probes:
        with pytest.raises(GradlabError, match="attached to this model already"):
            gradlab.attach(model, optimizer)
        train(model, optimizer, 1)
    assert len(probes.table("grad_norms")) == 6


@pytest.mark.parametrize("lazy", [nn.LazyLinear(4), nn.LazyBatchNorm1d(affine=False)])
def test_what_has_no_shape_yet_is_refused_until_a_batch_has_come(lazy: nn.Module) -> None:
    model = nn.Sequential(nn.Linear(3, 4), lazy)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(GradlabError, match=r"^1\.\w+ has no shape yet.* one batch"):
        gradlab.attach(model, optimizer)
    with torch.no_grad():
        model(torch.ones(2, 3))
    with gradlab.attach(model, optimizer) as probes:
        model(torch.randn(2, 3)).square().sum().backward()
        optimizer.step()
    assert set(probes.table("grad_norms")["param"]) == dict(model.named_parameters()).keys()
