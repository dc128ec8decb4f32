"""What cannot be attached or recorded is said in a sentence, and leaves nothing behind."""

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from small_training import hooks_of, make, train
from torch import nn

import gradlab
from gradlab.errors import GradlabError, GradlabWarning
from gradlab.probes import GradientNorms, Headroom, LearnedScales, OptimizerHealth, Probe


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


@pytest.mark.parametrize("options", [{"sample": 0}, {"count": 0}])
def test_a_number_of_looks_is_at_least_one(options: dict[str, int]) -> None:
    with pytest.raises(GradlabError, match="1 or more"):
        Headroom(**options)


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
