"""Following operations on tensors that are spread over processes, in one process alone.

The others may not follow theirs: a collective call that one makes for itself parts them.
"""

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard
from torch.distributed.tensor.debug import CommDebugMode
from two_processes import as_first_of_two

from gradlab.probes.operations.trace import OperationTrace


@pytest.fixture(autouse=True)
def _two_processes() -> Iterator[None]:
    with as_first_of_two():
        yield


class Sharded(nn.Module):
    """A function of weights of which each process has two of four rows."""

    def __init__(self, placement: Placement, second: list[float]) -> None:
        super().__init__()
        self.mesh = init_device_mesh("cpu", (2,))
        part = torch.tensor([[1.0, 1.0, 1.0], second])
        self.weight = nn.Parameter(DTensor.from_local(part, self.mesh, [placement]))

    def forward(self, x: Tensor) -> Tensor:
        spread = DTensor.from_local(x, self.mesh, [Replicate()])
        y = (spread * self.weight).exp()  # its gradient is exp(x · weight) again
        grown: Tensor = y.to_local()
        return grown.sum()


def collectives(model: Sharded, trace: OperationTrace | None) -> int:
    """The collective calls of a forward and a backward pass."""
    x = torch.ones((), requires_grad=True)
    with CommDebugMode() as calls:
        if trace is None:
            y = model(x)
        else:
            with trace.following(model):
                y = model(x)
            trace.ended(y)
        y.backward()
    count: int = calls.get_total_counts()
    return count


SECOND_ROWS = ([1.0, 1.0, 1.0], [1e3, 1.0, math.nan], [1e3, 1.0, 1e3])


@pytest.mark.parametrize("second", SECOND_ROWS)
@pytest.mark.parametrize("placement", [Shard(0), Shard(1), Replicate()])
def test_no_collective_call_is_added(placement: Placement, second: list[float]) -> None:
    model = Sharded(placement, second)
    assert collectives(model, OperationTrace(model)) == collectives(model, None)


def test_what_this_process_holds_is_blamed() -> None:
    model = Sharded(Shard(0), [1e3, 1.0, 1e3])
    trace = OperationTrace(model)
    collectives(model, trace)
    found = trace.culprit
    assert found is not None
    assert "exp(" in found.operation.function
    assert (found.kind, found.count, found.numel) == ("inf", 2, 6)
