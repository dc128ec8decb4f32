"""TensorBoard's own reader finds what the tables hold."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import gradlab
from gradlab.errors import GradlabWarning
from gradlab.probes import GradientNorms, Headroom, LearnedScales, OptimizerHealth

# TensorBoard takes seconds to import.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("tensorboard") is None, reason="needs tensorboard"),
]


def sink(*args: Any) -> Any:
    from gradlab.integrations.tensorboard import TensorBoardSink

    return TensorBoardSink(*args)


def train(*sinks: Any, steps: int = 3) -> Any:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    optimizer = torch.optim.AdamW(model.parameters())
    chosen = [GradientNorms(), LearnedScales(every=1), Headroom(), OptimizerHealth()]
    with gradlab.attach(model, optimizer, probes=chosen, memory=True, sinks=sinks) as probes:
        for _ in range(steps):
            loss = model(torch.ones(2, 4)).square()[:, 0].sum()
            probes.loss(loss)
            loss.backward()
            optimizer.step()
    return probes


def read(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"histograms": 0, "scalars": 0})
    return events.Reload()


def scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in read(folder).Scalars(tag)]


def test_scalars_and_histograms_are_the_tables(tmp_path: Path) -> None:
    probes = train(sink(tmp_path))
    losses = probes.table("steps")["loss"].tolist()
    assert scalars(tmp_path, "steps/loss") == [(n, pytest.approx(losses[n])) for n in range(3)]
    norms = probes.table("grad_norms")
    squares = (norms["grad_l2"] ** 2).groupby(norms["step"]).sum().tolist()
    assert scalars(tmp_path, "gradients/total_l2") == [
        (n, pytest.approx(squares[n] ** 0.5)) for n in range(3)
    ]
    one = norms[norms["param"] == "0.weight"]["grad_l1"].tolist()
    assert [value for _, value in scalars(tmp_path, "grad_l1/0.weight")] == pytest.approx(one)
    headroom = probes.table("headroom").query("direction == 'forward'")
    least = headroom.groupby("step")["headroom_bits"].min().tolist()
    assert [value for _, value in scalars(tmp_path, "headroom/forward")] == pytest.approx(least)
    histogram = read(tmp_path).Histograms("scales/1.weight")[0].histogram_value
    scales = probes.table("scales").query("step == 0")["value"]
    assert (histogram.num, histogram.sum) == (4, pytest.approx(scales.sum()))
    assert scalars(tmp_path, "update_ratio/1.weight")[0][1] > 0


def test_words_are_texts(tmp_path: Path) -> None:
    writer = sink(tmp_path)
    event = {
        "step": 5, "order": 0, "site": "a.b", "layer": None, "op": "b", "direction": "forward",
        "kind": "inf", "count": 1, "numel": 4, "producer": "a.b", "loss_scale": 8.0,
        "skipped": True,
    }  # fmt: skip
    writer.write("overflows", {name: [value] for name, value in event.items()})
    writer.close()
    (text,) = read(tmp_path).Tensors("overflows/what/text_summary")
    assert text.step == 5
    assert text.tensor_proto.string_val[0].startswith(b"step 5: a.b: inf, forward; 1 overflow")


def test_a_home_folder_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    train(sink("~/logs"))
    assert len(scalars(tmp_path / "logs", "steps/loss")) == 3


def test_a_writer_of_the_users_stays_open(tmp_path: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        train(sink(writer))
        writer.add_scalar("mine", 1.0, 0)
    assert scalars(tmp_path, "mine") == [(0, 1.0)]
    assert len(scalars(tmp_path, "steps/loss")) == 3


def test_one_sink_serves_two_trainings(tmp_path: Path) -> None:
    one = sink(tmp_path)
    train(one, steps=1)
    train(one, steps=2)
    assert len(list(tmp_path.glob("events*"))) == 2
    assert [step for step, _ in scalars(tmp_path, "steps/loss")][-2:] == [0, 1]


def test_logs_that_cannot_be_written_end_no_training(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("in the way")
    with pytest.warns(GradlabWarning, match="training goes on: TensorBoard's logs cannot"):
        probes = train(sink(file / "logs"))
    assert len(probes.table("steps")) == 3
