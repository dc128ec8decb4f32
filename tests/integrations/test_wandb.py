"""A real W&B run, offline, holds what the tables hold."""

import gc
import json
import math
import struct
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import gradlab
from gradlab.probes import GradientNorms, LearnedScales

# W&B starts a process of its own.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("wandb") is None, reason="needs wandb"),
]

BLOCK = 32768


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    import wandb

    monkeypatch.setenv("WANDB_SILENT", "true")
    with wandb.init(mode="offline", dir=tmp_path, project="test") as run:
        yield run
    with warnings.catch_warnings():  # W&B 0.20 leaves a socket, to be told of in any later test
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def finished(run: Any, folder: Path) -> list[dict[str, Any]]:
    """The rows of an offline run's history, read from its file (LevelDB's log format)."""
    import wandb
    from wandb.proto.wandb_internal_pb2 import Record

    run.finish()
    wandb.teardown()  # W&B's own process writes the file, and may do so after `finish` has returned

    (file,) = folder.rglob("run-*.wandb")
    data, at, whole, rows = file.read_bytes(), 7, b"", []
    while at + 7 <= len(data):
        if BLOCK - at % BLOCK < 7:
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            record, whole = Record.FromString(whole), b""
            if record.HasField("history"):
                rows.append(
                    {
                        "/".join(item.nested_key) or item.key: json.loads(item.value_json)
                        for item in record.history.item
                    }
                )
    return rows


def test_history_is_the_tables(run: Any, tmp_path: Path) -> None:
    from gradlab.integrations.wandb import WandbSink

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradlab.attach(
        model,
        optimizer,
        probes=[GradientNorms(), LearnedScales(every=1)],
        memory=True,
        sinks=[WandbSink(run)],
        window=2,
    ) as probes:
        for step in range(3):
            loss = model(torch.ones(2, 4)).square()[:, 0].sum()
            probes.loss(loss)
            loss.backward()
            optimizer.step()
            run.log({"mine": step})  # the run's own steps, ahead of gradlab's
    rows = finished(run, tmp_path)
    assert [row["mine"] for row in rows if "mine" in row] == [0, 1, 2]
    losses = [(row["gradlab/step"], row["steps/loss"]) for row in rows if "steps/loss" in row]
    assert losses == [(n, pytest.approx(x)) for n, x in enumerate(probes.table("steps")["loss"])]
    norms = probes.table("grad_norms").query("param == '0.weight'")["grad_l1"].tolist()
    assert [r["grad_l1/0.weight"] for r in rows if "grad_l1/0.weight" in r] == pytest.approx(norms)
    tag = "scales/1.weight/values"
    assert [sum(row[tag]) for row in rows if tag in row] == [4, 4, 4]


def test_what_is_not_finite_and_words_are_taken(run: Any, tmp_path: Path) -> None:
    from gradlab.integrations.wandb import WandbSink

    sink = WandbSink(run)
    sink.write(
        "headroom",
        {"step": [0], "layer": [None], "direction": ["forward"], "headroom_bits": [-math.inf]},
    )
    sink.write("mine", {"step": [0], "value": [math.nan], "dead": [True]})
    row = {"order": [0], "what": ["parameter"], "name": ["w"], "kind": ["nan"], "producer": [None]}
    sink.write("faults", {"step": [3], **row})
    sink.close()
    rows = finished(run, tmp_path)
    assert float(rows[0]["headroom/forward"]) == -math.inf
    assert math.isnan(float(rows[1]["mine/value"]))
    assert rows[1]["mine/dead"] == 1.0
    assert (rows[2]["gradlab/step"], rows[2]["faults/what"]) == (3, "step 3: parameter w: nan")
