"""Two processes record what one would on the whole batch."""

import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint
from two_processes import PROCESSES, one_of_two, run_in_two

import gradlab
from gradlab.errors import GradlabError
from gradlab.probes import GradientNorms, Headroom, LearnedScales, OptimizerHealth, Probe
from gradlab.runs.reader import Run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not dist.is_gloo_available(), reason="needs gloo"),
]

STEPS, BATCH, WIDTH, VOCAB = 3, 8, 6, 13
TABLES = {"grad_norms": ["param"], "scales": ["param", "index"], "optimizer": ["param"]}


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.fc1, self.fc2 = nn.Linear(WIDTH, 9), nn.Linear(9, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc2(torch.tanh(self.fc1(self.norm(x))))


class Net(nn.Module):
    """Sizes that two processes cannot share evenly, and a scale of one entry."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCAB, WIDTH)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(WIDTH, VOCAB, bias=False)
        self.gamma = nn.Parameter(torch.ones(1))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(x * self.gamma)


def plain(model: nn.Module) -> nn.Module:
    return model


def ddp(model: nn.Module) -> nn.Module:
    return DistributedDataParallel(model)


def ddp_checkpointed(model: nn.Module) -> nn.Module:
    """Its blocks computed again in backward passes within the backward pass."""
    assert isinstance(model, Net)
    for block in model.blocks:
        plain_forward = block.forward
        block.forward = partial(checkpoint, plain_forward, use_reentrant=True)
    return DistributedDataParallel(model)


def fsdp(model: nn.Module) -> nn.Module:
    assert isinstance(model, Net)
    for block in model.blocks:
        fully_shard(block)
    return fully_shard(model)


WRAPPERS = {"ddp": ddp, "ddp-checkpointed": ddp_checkpointed, "fsdp": fsdp}
CASES = list(product(WRAPPERS, (1, 2)))
"""Wrapper and number of micro-batches."""


def probes() -> list[Probe]:
    return [GradientNorms(), LearnedScales(every=1), OptimizerHealth(), Headroom()]


def train(wrap: Callable[[nn.Module], nn.Module], micro: int, out: Path | None) -> Run | None:
    """A few steps, on this process's share of the batch; the run, where this process keeps it."""
    rank = dist.get_rank() if dist.is_initialized() else 0
    processes = dist.get_world_size() if dist.is_initialized() else 1
    torch.manual_seed(0)
    model = wrap(Net())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    with gradlab.attach(model, optimizer, probes=probes(), out=out) as attached:
        for step in range(STEPS):
            tokens = torch.randint(VOCAB, (BATCH, 5), generator=torch.Generator().manual_seed(step))
            optimizer.zero_grad()
            for index, part in enumerate(tokens.chunk(micro)):
                mine = part.chunk(processes)[rank]
                with unsynchronised(model, last=index == micro - 1):
                    logits = model(mine)
                    loss = nn.functional.cross_entropy(logits.flatten(0, 1), mine.flatten())
                    attached.loss(loss)
                    (loss / micro).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
    try:
        return attached.run()
    except GradlabError:
        return None


def unsynchronised(model: nn.Module, last: bool) -> Any:
    """Where DDP and FSDP2 leave out the reduction of all micro-batches but the last."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(last)
    elif isinstance(model, DistributedDataParallel) and not last:
        return model.no_sync()
    return nullcontext()


def work(rank: str, port: str, folder: str) -> None:
    """One of the processes: every case after the other."""
    with one_of_two(rank, port) as mine:
        for kind, micro in CASES:
            run = train(WRAPPERS[kind], micro, Path(folder) / f"{kind}{micro}-{mine}")
            assert (run is None) == (mine > 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where both processes have recorded every case."""
    folder = tmp_path_factory.mktemp("together")
    run_in_two(__file__, str(folder))
    assert {path.name for path in folder.iterdir()} == {f"{kind}{n}-0" for kind, n in CASES}
    return folder


@pytest.mark.parametrize(("kind", "micro"), CASES)
def test_as_one_process_on_the_whole_batch(kind: str, micro: int, folder: Path) -> None:
    run = gradlab.load(folder / f"{kind}{micro}-0")
    alone = train(plain, micro, None)
    assert alone is not None
    for name, keys in TABLES.items():
        order = ["step", *keys]
        expected = alone.table(name).sort_values(order, ignore_index=True)
        found = run.table(name).sort_values(order, ignore_index=True)
        pd.testing.assert_frame_equal(found, expected, rtol=1e-5, atol=1e-9)
        assert len(found) > 0
    steps = run.table("steps")
    assert steps["step"].tolist() == list(range(STEPS))
    np.testing.assert_allclose(steps["loss"], alone.table("steps")["loss"], rtol=1e-5)
    found, expected = by_site(run), by_site(alone)
    # The loss is the mean over a process's share, a gradient within the model that many times it.
    expected["backward"] *= PROCESSES
    pd.testing.assert_frame_equal(found, expected, rtol=1e-5, atol=1e-9)
    assert {"blocks.0.fc1", "blocks.1.fc2"} <= set(found.index.get_level_values("site"))


def by_site(run: Run) -> pd.DataFrame:
    """The largest magnitude of every module's output, and of the gradient there."""
    headroom = run.table("headroom")
    outputs = headroom[~headroom["site"].str.contains(r"weight|bias|gamma")]
    return outputs.pivot(index=["step", "site"], columns="direction", values="max_abs")


if __name__ == "__main__":
    work(*sys.argv[1:])
