"""Parameters' gradients that are read at once, as their pass ends, show what single looks do."""

import math
from collections.abc import Callable, Sequence

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import gradlab
from gradlab.probes import GradientNorms, Headroom, fused
from gradlab.probes.headroom.together import Together
from gradlab.probes.statistics import details


def by_torch(entries: Sequence[Tensor]) -> Tensor:
    """What the kernels of a GPU give."""
    rows = []
    for x in entries:
        wide = x.double()
        finite = wide[wide.isfinite()].abs()
        rows.append(torch.cat([finite.sum()[None], (finite**2).sum()[None], details(x).double()]))
    return torch.stack(rows)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def change() -> None:
        monkeypatch.setattr(fused, "takes", lambda x: True)
        monkeypatch.setattr(fused, "statistics", by_torch)

    return change


def clear(parameter: Tensor) -> None:
    assert parameter.grad is not None
    parameter.grad.zero_()


def recorded(
    hook: bool = False, largest: float = 1.0, device: str = "cpu"
) -> dict[str, pd.DataFrame]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 3)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for parameter in model.parameters() if hook else ():
        parameter.register_post_accumulate_grad_hook(clear)
    with gradlab.attach(model, optimizer, probes=[Headroom(count=2), GradientNorms()]) as recorded:
        for step in range(3):
            optimizer.zero_grad()
            for _ in range(1 if hook else 2):
                with torch.autocast(device, torch.float16):
                    output = model(torch.randn(4, 6).to(device))
                output.float().square().mean().backward(
                    torch.tensor(largest if step == 2 else 2.0**-10).to(device)
                )
            optimizer.step()
    return {name: recorded.table(name) for name in ("headroom", "overflows", "grad_norms")}


@pytest.mark.parametrize("hook", [False, True])
@pytest.mark.parametrize("largest", [1.0, 3e38])
def test_rows_are_those_of_single_looks(
    hook: bool, largest: float, at_once: Callable[[], None]
) -> None:
    expected = recorded(hook, largest)
    assert (expected["headroom"]["site"] == "0.weight").any()
    at_once()
    read: list[int] = []

    def counted(entries: Sequence[Tensor]) -> Tensor:
        read.append(len(entries))
        return by_torch(entries)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fused, "statistics", counted)
        found = recorded(hook, largest)
    # Not where a hook of the loop's own changes a gradient before the pass ends.
    assert read == ([] if hook else [4] * 6)  # a pass each
    same = ["step", "site", "direction", "max_abs", "headroom_bits"]
    if math.isfinite(largest) and largest < 2:
        pd.testing.assert_frame_equal(found["headroom"], expected["headroom"])
    pd.testing.assert_frame_equal(found["overflows"], expected["overflows"])
    pd.testing.assert_frame_equal(found["grad_norms"], expected["grad_norms"])
    finite = expected["headroom"]["nonfinite"] == 0
    pd.testing.assert_frame_equal(
        found["headroom"].loc[finite, same], expected["headroom"].loc[finite, same]
    )


@pytest.mark.gpu
@pytest.mark.parametrize("largest", [1.0, 3e38])
def test_a_gpu_records_the_same_without_triton(
    largest: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = recorded(largest=largest, device="cuda")
    monkeypatch.setattr(fused, "kernels_of", lambda device: None)
    expected = recorded(largest=largest, device="cuda")
    for name, table in expected.items():
        pd.testing.assert_frame_equal(found[name], table, rtol=1e-6)


def test_what_changes_before_the_read_is_noticed(at_once: Callable[[], None]) -> None:
    at_once()
    x, y = torch.tensor([3.0, -5.0]), torch.tensor([math.inf, 0.0])
    together = Together()
    together.note(x)
    together.read()
    together.note(y)
    assert together.numbers().tolist() == [[-5, 5], [-math.inf, math.inf]]
    assert together.counts().tolist() == [[5, 0, 0, 2, 2], [0, 1, 0, 1, 1]]
    assert together.is_safe
    together.clear()
    together.note(y)
    y[0] = math.nan
    assert together.numbers().isnan().all()
    assert not together.is_safe


@pytest.mark.filterwarnings("ignore:Using backward.. with create_graph")
@pytest.mark.parametrize("create_graph", [False, True])
def test_a_gradient_changed_within_its_pass_is_waited_for_no_more(
    create_graph: bool, at_once: Callable[[], None]
) -> None:
    """By a hook of another parameter, which nothing tells of beforehand."""
    read: list[int] = []

    def counted(entries: Sequence[Tensor]) -> Tensor:
        read.append(len(entries))
        return by_torch(entries)

    def found(steps: int) -> pd.DataFrame:
        torch.manual_seed(0)
        first, second = nn.Linear(6, 8), nn.Linear(8, 3)
        model = nn.Sequential(first, second)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

        def change(gradient: Tensor) -> None:
            assert second.weight.grad is not None
            with torch.no_grad():
                second.weight.grad.mul_(64)

        first.weight.register_hook(change)
        with gradlab.attach(model, optimizer, probes=[Headroom()]) as probes:
            for _ in range(steps):
                optimizer.zero_grad()
                with torch.autocast("cpu", torch.float16):
                    output = model(torch.randn(4, 6))
                output.float().square().mean().backward(create_graph=create_graph)
                optimizer.step()
        return probes.table("headroom")

    expected = found(3)
    at_once()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fused, "statistics", counted)
        seen = found(3)
    assert read == [4], "once, and then singly"
    later = seen["step"] > 0
    pd.testing.assert_frame_equal(seen[later], expected[later])
