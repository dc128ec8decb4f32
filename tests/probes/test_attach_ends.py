"""Where a recording begins and how it ends: resumed, closed with an error, left open."""

import gc
import itertools
import math
import pickle
import subprocess
import sys
import weakref
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import nn

import gradlab
from gradlab.probes import GradientNorms, Headroom, Probe, Reading, Step
from gradlab.probes.attach import Probes
from gradlab.probes.probe import Columns

SCRIPT = """
import sys
import torch
import gradlab

model = torch.nn.Linear(2, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
probes = gradlab.attach(model, optimizer, out=sys.argv[1])
for batch in range(3):
    if batch == 2:
        raise ValueError("no such batch")
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
"""


def trained(steps: int, **options: object) -> Probes:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    probes = gradlab.attach(model, optimizer, **options)
    for _ in range(steps):
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
    return probes


def test_a_resumed_training_counts_on() -> None:
    with trained(5, first_step=7, every=4) as probes:
        assert probes.table("steps")["step"].tolist() == [7, 8, 9, 10, 11]
        assert probes.table("grad_norms")["step"].unique().tolist() == [8]
        assert probes.table("steps")["update"].tolist() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (None, "finished"),
        (ValueError("a bad batch"), "error"),
        (KeyboardInterrupt(), "interrupted"),
    ],
)
def test_a_recording_says_how_it_ended(error: BaseException | None, status: str) -> None:
    probes = trained(1)
    probes.close(error)
    assert probes.run().status == status
    if status == "error":
        assert probes.run().info["error"] == "ValueError: a bad batch"


def test_a_loss_whose_backward_pass_failed_is_not_said_to_come_too_late() -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def backward(gradient: torch.Tensor) -> None:
        raise MemoryError

    probes = gradlab.attach(model, optimizer)
    loss = model(torch.ones(1, 2)).sum()
    probes.loss(loss)
    loss.register_hook(backward)
    with pytest.raises(MemoryError) as raised:
        loss.backward()
    probes.close(raised.value)


@pytest.mark.parametrize("first", [0, 1])
def test_two_recordings_of_one_scaler_end_in_any_order(first: int) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    attributes = set(vars(scaler))
    models = [nn.Linear(2, 1), nn.Linear(2, 1)]
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in models]
    pairs = zip(models, optimizers, strict=True)
    probes = [gradlab.attach(model, optimizer, scaler=scaler) for model, optimizer in pairs]

    def train() -> None:
        for model, optimizer in zip(models, optimizers, strict=True):
            scaler.scale(model(torch.ones(1, 2)).sum()).backward()
            scaler.step(optimizer)
        scaler.update()

    train()
    probes[first].close()
    pickle.dumps(scaler)
    train()
    probes[1 - first].close()
    train()
    assert [len(one.table("steps")) for one in probes] == ([1, 2] if first == 0 else [2, 1])
    assert set(vars(scaler)) == attributes


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_a_scaler_is_what_it_was_whatever_is_closed_first(order: Sequence[int]) -> None:
    scaler = torch.amp.GradScaler("cpu")
    attributes, whole = set(vars(scaler)), pickle.dumps(scaler)
    probes = [trained_by(scaler) for _ in order]
    for index in order:
        assert pickle.dumps(scaler) == whole
        probes[index].close()
    assert set(vars(scaler)) == attributes


def trained_by(scaler: torch.amp.GradScaler) -> Probes:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return gradlab.attach(model, optimizer, scaler=scaler, probes=[GradientNorms()])


@pytest.mark.parametrize("is_shared", [False, True])
def test_closed_probes_keep_neither_model_nor_optimizer(is_shared: bool, tmp_path: Path) -> None:
    scaler, other = torch.amp.GradScaler("cpu"), nn.Linear(2, 1)
    model = nn.Linear(2, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    probes = gradlab.attach(model, optimizer, scaler=scaler, keep=tmp_path / "crash")
    if is_shared:
        gradlab.attach(other, torch.optim.SGD(other.parameters()), scaler=scaler).close()
        above = gradlab.attach(other, torch.optim.SGD(other.parameters()), scaler=scaler)
    scaler.scale(model(torch.ones(1, 2)).sum()).backward()
    scaler.step(optimizer)
    probes.close()
    probes.flush()
    alive = weakref.ref(model), weakref.ref(optimizer)
    del model, optimizer
    gc.collect()
    assert [one() for one in alive] == [None, None]
    assert len(probes.table("steps")) == 1
    if is_shared:
        above.close()


class Failing(Probe):
    """Fails as every probe does after an error of the device."""

    table = "failing"
    columns: ClassVar[Mapping[str, type]] = {"x": float}

    def __init__(self, moment: str) -> None:
        self.moment = moment

    def after_step(self) -> Reading | None:
        if self.moment == "after_step":
            raise RuntimeError("device-side assert")
        return Reading({"x": [1.0]}, {})

    def rows(self, step: Step, columns: Columns) -> Mapping[str, Columns]:
        raise RuntimeError("device-side assert")


@pytest.mark.parametrize("moment", ["after_step", "rows"])
def test_a_recording_that_cannot_be_ended_leaves_nothing_behind(
    moment: str, tmp_path: Path
) -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def fail() -> None:
        probes = [Headroom(), Failing(moment)]
        with gradlab.attach(model, optimizer, out=tmp_path / "run", probes=probes):
            model(torch.ones(1, 2)).sum().backward()
            raise ValueError("the loop's own")

    with pytest.raises(ValueError, match="the loop's own") as raised:
        fail()
    assert "device-side assert" in raised.value.__notes__[0]
    assert not model.weight._post_accumulate_grad_hooks
    assert not optimizer._optimizer_step_post_hooks
    run = gradlab.load(tmp_path / "run")
    assert (run.status, run.info["error"]) == ("error", "ValueError: the loop's own")
    assert not (tmp_path / "run" / ".lock").exists()
    gradlab.attach(model, optimizer).close()


@pytest.mark.parametrize("raises", [True, False])
def test_a_loop_that_ends_where_its_loss_is_nan_names_the_culprit(raises: bool) -> None:
    """By raising, or by `break`: the step has a forward pass and a loss, and goes no further."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    nn.init.ones_(model[1].weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    probes = gradlab.attach(model, optimizer, scaler=scaler)

    def loop() -> None:
        with probes:
            for size in (1.0, 6e4):
                optimizer.zero_grad()
                nn.init.constant_(model[0].weight, size / 2)
                with torch.autocast("cpu", torch.float16):
                    loss = model(torch.ones(1, 2)).sum()
                probes.loss(loss)
                if not loss.isfinite():
                    if raises:
                        raise FloatingPointError("the loss is not finite")
                    break
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()

    with pytest.raises(FloatingPointError) if raises else nullcontext():
        loop()
    steps = probes.table("steps")
    assert steps["update"].tolist() == [1, 1]
    assert steps["loss_scale"].tolist() == [4, 4]
    assert steps["loss"].iloc[-1] == math.inf
    assert probes.table("overflows")["producer"].tolist() == ["1"]
    assert probes.table("grad_norms")["step"].max() == 0


@pytest.mark.slow
def test_a_script_that_raised_leaves_its_rows_and_its_error(tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = subprocess.run([sys.executable, "-c", SCRIPT, out], capture_output=True, text=True)
    assert "no such batch" in done.stderr
    run = gradlab.load(out)
    assert run.table("steps")["step"].tolist() == [0, 1]
    assert run.status == "error"
    assert run.info["error"].endswith("Error: no such batch")


def test_closed_as_a_step_ends() -> None:
    class Closing(Probe):
        table = "mine"
        columns: ClassVar = {"a": float}

        def after_step(self) -> Reading:
            probes.close()
            return Reading({}, {"a": torch.ones(1)})

    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    probes = gradlab.attach(model, optimizer, probes=[Closing()], window=1)
    for _ in range(3):
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
    assert not model._forward_hooks
