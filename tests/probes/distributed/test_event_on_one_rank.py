"""One process of two meets a bad batch between two steps of the cadence: the run names both."""

import math
import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from two_processes import PROCESSES, one_of_two, run_in_two

import gradlab
from gradlab.probes import Headroom, LearnedScales, OptimizerHealth

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not dist.is_gloo_available(), reason="needs gloo"),
]

STEPS, EVERY, EVENT, RANK = 32, 10, 23, 1
BAD = {"faults": math.inf, "overflows": 1e6}
"""What one entry of the batch is: infinite in any type, or no longer finite once it is FP16."""

CASES = list(product(("ddp", "fsdp"), BAD))
"""How the processes train together, and the table that tells of the event."""


def net(kind: str) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7), nn.Tanh()), nn.Linear(7, 1)
    )
    if kind == "ddp":
        return DistributedDataParallel(model)
    for part in model:
        fully_shard(part)
    return fully_shard(model)


def train(kind: str, table: str, rank: int, out: Path | None) -> dict[str, Tensor]:
    """Losses of this process, and all weights at the end; recorded where there is an `out`."""
    model = net(kind)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    generator = torch.Generator().manual_seed(rank)
    recording = {"scaler": scaler, "every": EVERY, "out": out}
    probes = gradlab.attach(model, optimizer, **recording) if out else None
    losses = []
    for step in range(STEPS):
        x = torch.randn(4, 5, generator=generator)
        if (step, rank) == (EVENT, RANK):
            x[2, 3] = BAD[table]
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.float16, enabled=table == "overflows"):
            y = model(x)
        loss = (y.float() - x[:, :1].tanh()).square().mean()
        if probes:
            probes.loss(loss)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.detach())
    if probes:
        probes.close()
    weights = {name.removeprefix("module."): whole(p) for name, p in model.named_parameters()}
    return {"loss": torch.stack(losses), **weights}


def whole(parameter: Any) -> Tensor:
    gathered = parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter
    return gathered.detach().clone()


HIDDEN = "hidden"
"""The event that no gradient shows, which only a long test looks at."""


class Hides(nn.Module):
    """Lets nothing of an output that is infinite come to the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.grow, self.fc, self.norm = (
            nn.Threshold(-math.inf, 0.0),
            nn.Linear(5, 7),
            nn.LayerNorm(7),
        )
        self.grow.register_forward_hook(lambda module, args, output: output * 1e30)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.fc(x + self.grow(x).clamp(-1, 1)))
        return y


def train_hidden(rank: int, out: Path) -> None:
    """Each process is at peace with every gradient, and one has seen an infinite output."""
    torch.manual_seed(0)
    model = DistributedDataParallel(Hides())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    probes = [Headroom(), OptimizerHealth(), LearnedScales(every=EVERY)]
    with gradlab.attach(model, optimizer, probes=probes, every=EVERY, out=out):
        for step in range(STEPS):
            x = torch.ones(4, 5)
            if (step, rank) == (EVENT, RANK):
                x[2, 3] = 1e9
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()


@pytest.mark.long
def test_the_first_process_writes_all_its_rows_of_another_ones_event(tmp_path: Path) -> None:
    run_in_two(__file__, str(tmp_path), HIDDEN)
    run = gradlab.load(tmp_path / HIDDEN)
    faults = run.table("faults")
    assert faults[["step", "rank", "name"]].drop_duplicates().to_numpy().tolist() == [
        [EVENT, RANK, "grow"]
    ]
    expected = {*range(0, STEPS, EVERY), EVENT}
    for name in ("headroom", "optimizer", "scales"):
        assert expected <= set(run.table(name)["step"]), name
    assert set(run.table("optimizer")["step"]) == expected


def work(rank: str, port: str, folder: str, *only: str) -> None:
    """One of the processes: every case, with probes and without, or the hidden event alone."""
    with one_of_two(rank, port) as mine:
        if only:
            train_hidden(mine, Path(folder) / HIDDEN)
            return
        for kind, table in CASES:
            name = f"{kind}-{table}"
            for out in (Path(folder) / name, None):
                found = train(kind, table, mine, out)
                torch.save(found, Path(folder) / f"{name}-{mine}-{'bare' if out is None else 'on'}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What both processes have left of every case."""
    folder = tmp_path_factory.mktemp("event")
    run_in_two(__file__, str(folder))
    return folder


def left(folder: Path, case: tuple[str, str], rank: int, how: str) -> dict[str, np.ndarray]:
    found = torch.load(folder / f"{'-'.join(case)}-{rank}-{how}")
    return {name: tensor.numpy() for name, tensor in found.items()}


@pytest.mark.parametrize("case", CASES)
def test_the_training_is_the_same_to_the_bit(case: tuple[str, str], folder: Path) -> None:
    for rank in range(PROCESSES):
        found, bare = (left(folder, case, rank, how) for how in ("on", "bare"))
        for name in bare:
            np.testing.assert_array_equal(found[name], bare[name], err_msg=name)
        finite = np.isfinite(bare.pop("loss"))
        assert np.flatnonzero(~finite).tolist() == [EVENT] * (rank == RANK)
        assert all(np.isfinite(weights).all() for weights in bare.values())


@pytest.mark.parametrize("case", CASES)
def test_tables_name_the_rank_and_the_step_and_no_other(
    case: tuple[str, str], folder: Path
) -> None:
    run = gradlab.load(folder / "-".join(case))
    for name in ("overflows", "faults"):
        rows = run.table(name)
        assert set(rows["step"]) <= {EVENT}
        # FSDP2's gradients are reduced as they come: of those, whoever holds the shard is named.
        if name == "overflows" and case[0] == "fsdp":
            rows = rows[~rows["site"].str.endswith(("weight", "bias"))]
        assert set(rows["rank"]) <= {RANK}
    found = run.table(case[1])
    assert (found.loc[found["order"] == 0, "rank"] == RANK).sum() == 1
    assert (run.table("faults")["what"] == "loss").sum() == 1
    steps = run.table("steps")
    assert steps["step"].tolist() == list(range(STEPS))
    assert steps.loc[steps["skipped"], "step"].tolist() == [EVENT]
    losses = [left(folder, case, rank, "bare")["loss"] for rank in range(PROCESSES)]
    np.testing.assert_allclose(steps["loss"], np.mean(losses, axis=0), rtol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_gradient_norms_are_there_once_on_the_cadence_and_at_the_event(
    case: tuple[str, str], folder: Path
) -> None:
    rows = gradlab.load(folder / "-".join(case)).table("grad_norms")
    expected = sorted([*range(0, STEPS, EVERY), EVENT])
    for _, of_parameter in rows.groupby("param"):
        assert of_parameter["step"].tolist() == expected
    assert set(rows["param"]) == set(left(folder, case, 0, "bare")) - {"loss"}
    lost = rows.groupby("step")["nonfinite"].sum() > 0
    assert lost.index[lost].tolist() == [EVENT]


@pytest.mark.parametrize("case", CASES)
def test_inspect_says_the_rank_and_the_step(case: tuple[str, str], folder: Path) -> None:
    found = {f.what: f.sentence for f in gradlab.inspect(folder / "-".join(case)).findings}
    headings = {
        "faults": ["first not finite", "input not finite"],
        "overflows": ["first overflow"],
    }
    for heading in headings[case[1]]:
        assert f"step {EVENT} on rank {RANK}" in found[heading]


if __name__ == "__main__":
    work(*sys.argv[1:])
