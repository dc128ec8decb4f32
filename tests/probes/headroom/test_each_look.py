"""What is known of a site, its dtype, size and mask, is what each look saw, not the first one."""

import copy
import math
from collections.abc import Callable, Sequence

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import gradlab
from gradlab.probes import Headroom
from gradlab.probes.attach import Probes

HALF, WIDE = torch.float16, torch.float32
Batch = Tensor | Sequence[Tensor]


class Around(nn.Module):
    """A module with a part that has parameters, as attention has."""

    def __init__(self, then: Callable[[Tensor], Tensor] = lambda x: x * 1.0) -> None:
        super().__init__()
        self.inner, self.then = nn.Linear(8, 8), then

    def forward(self, x: Tensor) -> Tensor:
        return self.then(self.inner(x))


def record(
    model: nn.Module, batches: Sequence[Batch], dtypes: Sequence[torch.dtype] = (HALF,)
) -> Probes:
    """A step a batch, or a sequence of micro-batches; the dtypes of autocast are used in turns."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    start = copy.deepcopy(model.state_dict())
    with gradlab.attach(model, optimizer, probes=[Headroom(count=1)]) as probes:
        for step, batch in enumerate(batches):
            optimizer.zero_grad()
            dtype = dtypes[step % len(dtypes)]
            for x in [batch] if isinstance(batch, Tensor) else batch:
                with torch.autocast("cpu", HALF, enabled=dtype is HALF):
                    y = model(x)
                y.float().sum().backward()
            optimizer.step()
            model.load_state_dict(start)  # 0 times NaN is NaN
    return probes


def events_at(probes: Probes, step: int) -> pd.DataFrame:
    events = probes.table("overflows")
    return events[(events["step"] == step) & (events["direction"] == "forward")]


@pytest.mark.parametrize("dtypes", [(WIDE, HALF), (HALF, WIDE), (WIDE, WIDE, HALF)])
def test_the_dtype_of_each_step(dtypes: Sequence[torch.dtype]) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    nn.init.constant_(model[0].weight, 6e4)
    probes = record(model, [torch.ones(4, 8)] * 6, dtypes)
    expected = [dtypes[step % len(dtypes)] for step in range(6)]
    headroom = probes.table("headroom")
    for site in ("0", "1"):
        rows = headroom[(headroom["site"] == site) & (headroom["direction"] == "forward")]
        assert [f"torch.{dtype}" for dtype in rows["dtype"]] == [str(dtype) for dtype in expected]
    halves = [step for step, dtype in enumerate(expected) if dtype is HALF]
    assert probes.table("overflows")["step"].unique().tolist() == halves


def test_the_dtype_of_a_parameters_gradient_is_that_of_each_steps_product() -> None:
    probes = record(nn.Sequential(nn.Linear(8, 8)), [torch.ones(4, 8)] * 4, (HALF, WIDE))
    headroom = probes.table("headroom")
    rows = headroom[headroom["site"] == "0.weight"]
    # Without FP16 in a step the gradient norms say as much.
    assert rows[["step", "dtype"]].values.tolist() == [[0, "float16"], [2, "float16"]]


def test_a_step_in_two_dtypes_has_a_row_of_each() -> None:
    model = nn.Sequential(nn.Linear(8, 8))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with gradlab.attach(model, optimizer, probes=[Headroom()]) as probes:
        for enabled in (True, False):
            with torch.autocast("cpu", HALF, enabled=enabled):
                y = model(torch.ones(2, 8))
            y.float().sum().backward()
        optimizer.step()
    headroom = probes.table("headroom")
    rows = headroom[(headroom["site"] == "0") & (headroom["direction"] == "forward")]
    assert rows["dtype"].tolist() == ["float16", "float32"]
    # The sum over micro-batches is one tensor, and has one row.
    assert headroom.loc[headroom["site"] == "0.weight", "dtype"].tolist() == ["float32"]


@pytest.mark.parametrize("lengths", [(2, 100), (100, 2), (5, 5)])
def test_the_entries_of_each_step(lengths: tuple[int, int]) -> None:
    model = nn.Sequential(nn.Linear(8, 8))
    nn.init.constant_(model[0].weight, 1e4)
    probes = record(model, [torch.full((1, length, 8), 100.0) for length in lengths])
    for step, length in enumerate(lengths):
        (event,) = events_at(probes, step).to_dict("records")
        assert (event["count"], event["numel"]) == (8 * length, 8 * length)


def test_the_entries_of_micro_batches_of_different_length() -> None:
    model = nn.Sequential(nn.Linear(8, 8))
    nn.init.constant_(model[0].weight, 1e4)
    large, small = torch.full((1, 3, 8), 100.0), torch.zeros(1, 5, 8)
    (event,) = events_at(record(model, [(small, large)]), 0).to_dict("records")
    assert (event["count"], event["numel"]) == (3 * 8, (3 + 5) * 8)


@pytest.mark.parametrize("first", [7, 8, 9])
@pytest.mark.parametrize("late", [8, 9])
def test_an_overflow_is_no_mask_whatever_the_batches_shapes(first: int, late: int) -> None:
    model = nn.Sequential(Around())
    nn.init.constant_(model[0].inner.weight, -1e4)
    x = torch.zeros(1, late, 8)
    x[0, 3] = 100
    events = events_at(record(model, [torch.zeros(1, first, 8), x]), 1)
    assert events["site"].tolist() == ["0.inner", "0"]


def test_a_mask_in_one_batch_of_many() -> None:
    def mask(x: Tensor) -> Tensor:
        hidden = torch.ones(x.shape[-2:]).triu(1).bool()
        return x.masked_fill(hidden, -math.inf) if x.shape[1] == 8 else x

    model = nn.Sequential(Around(mask), nn.Softmax(-1))
    probes = record(model, [torch.ones(1, length, 8) for length in (5, 8, 5)])
    assert probes.table("overflows").empty
