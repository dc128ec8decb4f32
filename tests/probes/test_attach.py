import atexit
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from small_training import ALL, hooks_of, make, train
from torch import Tensor, nn

import gradlab
from gradlab.analyses.settings import settings
from gradlab.errors import GradlabError, GradlabWarning
from gradlab.probes import GradientNorms, Headroom, LearnedScales, OptimizerHealth, Probe, Reading
from gradlab.probes.probe import Subject
from gradlab.runs.writer import RunWriter


def test_a_loop_of_ones_own_becomes_a_run(tmp_path: Path) -> None:
    model, optimizer = make()
    losses = []
    with gradlab.attach(model, optimizer, out=tmp_path / "run", every=2, window=3) as probes:
        for step in range(8):
            optimizer.zero_grad()
            loss = model(torch.ones(3, 4)).square().sum()
            probes.loss(loss)
            losses.append(loss.item())
            loss.backward()
            optimizer.param_groups[0]["lr"] = 0.01 * (step + 1)
            optimizer.step()
    run = gradlab.load(tmp_path / "run")
    assert run.status == "finished"
    assert run.attached
    events = ("overflows", "forecasts", "faults")
    assert run.tables == ("steps", "grad_norms", "scales", "headroom", *events)
    steps = run.table("steps")
    assert steps["step"].tolist() == list(range(8))
    assert steps["update"].tolist() == list(range(1, 9))
    assert steps["lr"].tolist() == pytest.approx([0.01 * (step + 1) for step in range(8)])
    assert steps["loss"].tolist() == losses
    assert steps["seconds"].is_monotonic_increasing
    assert run.table("grad_norms")["step"].unique().tolist() == [0, 2, 4, 6]
    assert run.table("headroom")["step"].unique().tolist() == [0, 2, 4, 6]
    assert probes.table("grad_norms").equals(run.table("grad_norms"))
    assert run.info["params"] == 4 * 8 + 8 + 16 + 8 * 2 + 2
    assert "Sequential" in repr(run)
    with pytest.raises(GradlabError, match=r"recorded by gradlab\.attach"):
        _ = run.config


def test_tables_are_there_at_any_time() -> None:
    model, optimizer = make()
    probes = gradlab.attach(model, optimizer, probes=[GradientNorms()])
    for steps in range(1, 4):
        train(model, optimizer, 1)
        assert probes.table("grad_norms")["step"].nunique() == steps
    probes.close()
    probes.close()
    assert len(probes.table("steps")) == 3
    with pytest.raises(GradlabError, match="closed"):
        probes.loss(torch.ones(()))
    with pytest.raises(GradlabError, match="did not record headroom"):
        probes.table("headroom")


@pytest.mark.parametrize("raised", [False, True])
def test_nothing_is_left_behind(raised: bool) -> None:
    model, optimizer = make()
    scaler = torch.amp.GradScaler("cpu")
    attributes = [set(vars(x)) for x in (model, optimizer, scaler)]
    try:
        with gradlab.attach(model, optimizer, scaler=scaler, probes=[p() for p in ALL]):
            assert hooks_of(model, optimizer)
            assert "step" in vars(scaler)
            scaler.scale(model(torch.ones(3, 4)).sum()).backward()
            scaler.step(optimizer)
            scaler.update()
            if raised:
                raise ValueError("the loop's own")
    except ValueError:
        pass
    assert hooks_of(model, optimizer) == []
    assert [set(vars(x)) for x in (model, optimizer, scaler)] == attributes


def test_a_loop_that_raised_leaves_its_last_step_and_says_so(tmp_path: Path) -> None:
    model, optimizer = make()

    def fail() -> None:
        with gradlab.attach(model, optimizer, out=tmp_path / "run", probes=[p() for p in ALL]):
            train(model, optimizer, 2)
            model(torch.full((3, 4), math.nan)).sum().backward()
            raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        fail()
    run = gradlab.load(tmp_path / "run")
    assert run.status == "error"
    assert run.info["error"] == "ValueError: on purpose"
    assert run.table("steps")["update"].tolist() == [1, 2, 2]
    last = run.table("grad_norms").query("step == 2")
    assert (last["nonfinite"] == last["numel"]).any()
    assert run.table("headroom")["step"].max() == 2
    assert run.table("optimizer")["step"].max() == 1


def test_attached_or_not_the_weights_are_the_same_to_the_bit() -> None:
    weights = []
    for probes in ([], [p() for p in ALL]):
        model, optimizer = make()
        with gradlab.attach(model, optimizer, probes=probes):
            train(model, optimizer, 20)
        weights.append([p.detach().clone() for p in model.parameters()])
    model, optimizer = make()
    train(model, optimizer, 20)
    for other in weights:
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other, strict=True))


class WeightNorms(Probe):
    table = "weight_norms"
    columns: ClassVar = {"param": str, "l2": float, "rows": int}

    def open(self, subject: Subject) -> tuple[()]:
        self.weights = {n: p for n, p in subject.parameters.items() if p.dim() == 2}
        return ()

    def after_step(self) -> Reading:
        norms = torch.stack([w.detach().norm() for w in self.weights.values()])
        rows = [len(w) for w in self.weights.values()]
        return Reading({"param": list(self.weights), "rows": rows}, {"l2": norms})


def test_a_probe_of_ones_own_fills_a_table_of_its_own(tmp_path: Path) -> None:
    model, optimizer = make()
    probe = WeightNorms()
    with gradlab.attach(
        model, optimizer, probes=[probe], out=tmp_path / "run", memory=True
    ) as probes:
        train(model, optimizer, 2)
    table = gradlab.load(tmp_path / "run").table("weight_norms")
    assert table.columns.tolist() == ["step", "param", "l2", "rows"]
    assert table["rows"].tolist() == [8, 2, 8, 2]
    assert table["l2"].iloc[-1] == pytest.approx(model[3].weight.norm().item())
    assert probes.table("weight_norms").equals(table)


def test_steps_are_counted_by_hand_without_an_optimizer() -> None:
    model, optimizer = make()
    with gradlab.attach(model, probes=[GradientNorms()]) as probes:
        for _ in range(3):
            model(torch.ones(3, 4)).sum().backward()
            probes.step()
    assert probes.table("grad_norms")["step"].unique().tolist() == [0, 1, 2]
    with (
        gradlab.attach(model, optimizer, probes=[GradientNorms()]) as probes,
        pytest.raises(GradlabError, match="are counted"),
    ):
        probes.step()


def test_scales_are_recorded_without_an_optimizer_too() -> None:
    model, _ = make()
    with gradlab.attach(model, probes=[LearnedScales(every=1)]) as probes:
        for _ in range(2):
            model(torch.ones(3, 4)).sum().backward()
            probes.step()
    assert probes.table("scales")["value"].tolist() == [1.0] * 16


def test_each_probe_may_have_its_own_cadence() -> None:
    model, optimizer = make()
    chosen = [GradientNorms(every=lambda step: step in (1, 4)), OptimizerHealth()]
    with gradlab.attach(model, optimizer, probes=chosen, every=3) as probes:
        train(model, optimizer, 6)
    assert probes.table("grad_norms")["step"].unique().tolist() == [1, 4]
    assert probes.table("optimizer")["step"].unique().tolist() == [0, 3]


def test_parameters_and_sites_are_chosen_by_pattern() -> None:
    model, optimizer = make()
    chosen = [GradientNorms("*.weight"), Headroom(["0", "3*"])]
    with gradlab.attach(model, optimizer, probes=chosen) as probes:
        train(model, optimizer, 1)
    assert sorted(probes.table("grad_norms")["param"]) == ["0.weight", "1.weight", "3.weight"]
    assert set(probes.table("headroom")["site"]) == {"0", "3"}
    with gradlab.attach(model, optimizer, probes=[Headroom("3.*")]) as probes:
        train(model, optimizer, 1)
    assert set(probes.table("headroom")["site"]) == {"3.weight", "3.bias"}


def test_a_folder_that_fills_up_stops_the_recording_and_not_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, optimizer = make()
    plain = RunWriter.write

    def write(self: RunWriter, table: str, columns: Mapping[str, Sequence[Any]]) -> None:
        if min(columns["step"]) >= 4:
            raise GradlabError("the disk is full.")
        plain(self, table, columns)

    monkeypatch.setattr(RunWriter, "write", write)
    with (
        pytest.warns(GradlabWarning, match="training goes on: the disk is full") as said,
        gradlab.attach(model, optimizer, out=tmp_path / "run", memory=True, window=2) as probes,
    ):
        train(model, optimizer, 9)
    assert len(said) == 1
    run = gradlab.load(tmp_path / "run")
    assert run.table("steps")["step"].tolist() == [0, 1, 2, 3]
    assert (run.status, run.info["error"]) == ("error", "the disk is full.")
    assert not (tmp_path / "run" / ".lock").exists()
    assert len(probes.table("steps")) == 9


def test_a_folder_that_vanishes_stops_the_recording_and_not_the_training(tmp_path: Path) -> None:
    model, optimizer = make()
    folder = tmp_path / "run"
    probes = gradlab.attach(model, optimizer, out=folder, window=2)
    train(model, optimizer, 3)
    folder.rename(tmp_path / "moved")
    with pytest.warns(GradlabWarning, match="training goes on"):
        train(model, optimizer, 3)
    probes.close()
    assert gradlab.load(tmp_path / "moved").table("steps")["step"].tolist() == [0, 1]


class Sink:
    def __init__(self) -> None:
        self.rows: dict[str, int] = {}
        self.closed = False

    def write(self, table: str, columns: Mapping[str, Sequence[Any]]) -> None:
        self.rows[table] = self.rows.get(table, 0) + len(columns["step"])

    def close(self) -> None:
        self.closed = True


def test_sinks_get_every_row() -> None:
    model, optimizer = make()
    sink = Sink()
    with gradlab.attach(model, optimizer, probes=[GradientNorms()], sinks=[sink], window=2):
        train(model, optimizer, 5)
    assert sink.rows == {"steps": 5, "grad_norms": 30}
    assert sink.closed


class BrokenSink(Sink):
    def write(self, table: str, columns: Mapping[str, Sequence[Any]]) -> None:
        raise ConnectionError("no route to host")


def test_a_sink_that_fails_is_left_out_and_the_rest_goes_on() -> None:
    model, optimizer = make()
    probes = gradlab.attach(model, optimizer, sinks=[BrokenSink()], memory=True, window=2)
    with pytest.warns(GradlabWarning, match="goes on: ConnectionError: no route") as said:
        train(model, optimizer, 5)
    probes.close()
    assert len(said) == 1
    assert len(probes.table("steps")) == 5


def test_what_waits_on_the_device_does_not_grow_with_steps() -> None:
    model, optimizer = make()
    with gradlab.attach(model, optimizer, window=4) as probes:
        waiting = []
        for _ in range(20):
            train(model, optimizer, 1)
            waiting.append(len(probes._follower._past._pending))
    assert max(waiting) < 4


def test_windows_end_at_the_same_steps_whoever_flushes_between() -> None:
    model, optimizer = make()
    with gradlab.attach(model, optimizer, window=4) as probes:
        waiting = []
        for step in range(8):
            train(model, optimizer, 1)
            if step == 1:
                probes.flush()
            waiting.append(len(probes._follower._past._pending))
    assert waiting == [1, 0, 1, 0, 1, 2, 3, 0]


def test_probes_that_nobody_closes_are_written_at_the_end_of_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_exit: list[Any] = []
    monkeypatch.setattr(atexit, "register", at_exit.append)
    model, optimizer = make()
    gradlab.attach(model, optimizer, out=tmp_path / "run")
    train(model, optimizer, 3)
    (close,) = at_exit
    close()
    run = gradlab.load(tmp_path / "run")
    assert run.status == "finished"
    assert len(run.table("steps")) == 3


def test_checkpointing_wrappers_stay_out_of_the_names() -> None:
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    torch.manual_seed(0)
    model = nn.Sequential(checkpoint_wrapper(nn.Linear(4, 4)), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradlab.attach(model, optimizer) as probes:
        train(model, optimizer, 1)
    names = ["0.bias", "0.weight", "1.bias", "1.weight"]
    assert sorted(probes.table("grad_norms")["param"]) == names
    assert set(probes.table("headroom")["site"]) == {"0", "1"}


def test_a_module_that_only_passes_a_value_on_is_no_second_site() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.inner(x)
            return out

    model = nn.Sequential(Outer(), nn.ReLU(inplace=True))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradlab.attach(model, optimizer, probes=[Headroom(["0", "0.inner", "1"])]) as probes:
        train(model, optimizer, 1)
    assert set(probes.table("headroom")["site"]) == {"0.inner", "1"}


def test_what_a_user_says_of_a_run_is_kept_and_told(tmp_path: Path) -> None:
    model, optimizer = make()
    meta = {"norm": "pre", "widths": np.array([1, 2]), "note": {"lr": 3e-4}}
    with gradlab.attach(model, optimizer, out=tmp_path / "run", meta=meta) as probes:
        assert "of Sequential" in probes._repr_html_()
    run = gradlab.load(tmp_path / "run")
    assert run.info["meta"] == {"norm": "pre", "widths": [1, 2], "note": {"lr": 3e-4}}
    assert "norm = pre" in str(gradlab.inspect(run))
    (setting,) = settings({"run": run})
    assert (setting.values["meta.norm"], setting.values["meta.note.lr"]) == ("pre", 3e-4)
