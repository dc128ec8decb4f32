"""Which process an event or a fault is of, where several train together."""

import pandas as pd
import pytest
import torch
import torch.distributed as dist
from torch import nn

from gradlab.probes import Headroom
from gradlab.probes.distributed.processes import Processes
from gradlab.probes.engine.follower import LoopFollower
from gradlab.probes.subject import subject_of


def first_process_recorded(broken: int, dtype: torch.dtype) -> pd.DataFrame:
    """What rank 0 records of a step at which one of three ranks had an overflow."""
    store = dist.HashStore()
    processes = {rank: Processes(rank, [0, 1, 2], store) for rank in range(3)}
    table = "overflows" if dtype is torch.float16 else "faults"
    for rank in (1, 2, 0):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)).to(dtype)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        probe = Headroom()
        follower = LoopFollower(
            subject_of(model, (optimizer,)), [probe], every=10, processes=processes[rank]
        )
        probe.seen.rank = rank
        for step in range(3):
            optimizer.zero_grad()
            size = torch.finfo(dtype).max if rank == broken and step == 2 else 0.1
            x = torch.full((1, 2), size, dtype=dtype) * torch.tensor([[4, -4]])
            model(x).sum().backward()
            optimizer.step()
        found = [
            tables[table]
            for step in follower.collect()
            for tables in step.tables
            if table in tables
        ]
        follower.close()
    return pd.concat([pd.DataFrame(dict(rows)) for rows in found])


@pytest.mark.parametrize("broken", [0, 1, 2])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_the_rank_that_broke_is_named(broken: int, dtype: torch.dtype) -> None:
    """Between two steps of the cadence, and whoever of the three it is."""
    rows = first_process_recorded(broken, dtype)
    assert set(rows["step"]) == {2}
    assert set(rows["rank"]) == {broken}
