"""Where a recording begins and how it ends: resumed, closed with an error, left open."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import gradlab
from gradlab.probes.attach import Probes

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
        assert probes.run().info["error"] == "a bad batch"


@pytest.mark.slow
def test_a_script_that_raised_leaves_its_rows_and_its_error(tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = subprocess.run([sys.executable, "-c", SCRIPT, out], capture_output=True, text=True)
    assert "no such batch" in done.stderr
    run = gradlab.load(out)
    assert run.table("steps")["step"].tolist() == [0, 1]
    assert run.status == "error"
    assert run.info["error"] == "no such batch"
