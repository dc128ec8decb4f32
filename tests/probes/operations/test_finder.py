"""Which step is looked at down to the operation, and what its tables then say."""

import math
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import gradlab
from gradlab.probes import Headroom


class Scores(nn.Module):
    """q·k outside of any module of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.q = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        q = self.q(x)
        scores = q @ q.mT  # the product
        return scores.softmax(-1)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = Scores()
        self.head = nn.Linear(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.attention(x))
        return out


def line_of(words: str) -> str:
    lines = Path(__file__).read_text().splitlines()
    return f"test_finder.py:{1 + next(n for n, line in enumerate(lines) if words in line)}"


def trained(sizes: list[float], *, half: bool = True) -> dict[str, pd.DataFrame]:
    """The tables of a run with inputs of these sizes, a step each."""
    torch.manual_seed(0)
    model = Model()
    nn.init.eye_(model.attention.q.weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    with (
        gradlab.emulated_fp16(),
        gradlab.attach(model, optimizer, scaler=scaler, probes=[Headroom()]) as probes,
    ):
        for size in sizes:
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.float16, enabled=half):
                loss = model(torch.full((2, 4), size)).float().square().mean()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
    return {name: probes.table(name) for name in ("overflows", "faults", "steps")}


def test_a_product_between_modules_is_named() -> None:
    events = trained([1.0, 300.0, 1.0])["overflows"]
    assert set(events.step) == {1}
    assert events.function.str.startswith("torch.Tensor.matmul(float16 (2, 4)").all()
    assert events.source.str.endswith(line_of("# the product")).all()


def test_of_a_streak_the_first_step_is_looked_at() -> None:
    events = trained([300.0, 300.0, 1.0, 300.0])["overflows"]
    named = events.groupby("step").function.first().notna()
    assert named.to_dict() == {0: True, 1: False, 3: True}


def test_without_fp16_it_is_a_fault() -> None:
    faults = trained([1e25], half=False)["faults"]
    activation = faults[faults["what"] == "activation"].iloc[0]
    assert "matmul" in activation.function
    assert activation.source.endswith(line_of("# the product"))


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_an_input_that_is_not_finite_blames_none(bad: float) -> None:
    tables = trained([bad])
    assert tables["overflows"].function.isna().all()
    assert tables["faults"].function.isna().all()


def test_a_loop_that_ends_where_its_loss_is_nan() -> None:
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradlab.attach(model, optimizer, probes=[Headroom()]) as probes:
        model(torch.full((2, 4), 1e30))
    assert "matmul" in probes.table("faults").function.dropna().iloc[0]


def test_the_losses_stay_the_same_to_the_bit() -> None:
    def losses(*, attached: bool) -> list[float]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        probes = gradlab.attach(model, optimizer) if attached else None
        found = []
        for step in range(6):
            x = torch.randn(4, 4) * (math.inf if step == 2 else 1)
            loss = model(x).square().mean()
            loss.backward()
            if step == 2:
                optimizer.zero_grad()
            optimizer.step()
            optimizer.zero_grad()
            found.append(loss.item())
        if probes is not None:
            probes.close()
        return found

    assert str(losses(attached=True)) == str(losses(attached=False))


def test_steps_that_are_chosen_are_followed_as_they_run() -> None:
    torch.manual_seed(0)
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    calls = []
    model.attention.q.register_forward_hook(lambda *_: calls.append(1))
    with gradlab.attach(model, optimizer, probes=[Headroom(operations=2)]) as probes:
        for size in (1.0, 1.0, 1e25, 1e25):
            optimizer.zero_grad()
            model(torch.full((2, 4), size)).sum().backward()
            optimizer.step()
    faults = probes.table("faults")
    named = faults[faults["what"] == "activation"].groupby("step").source.first()
    assert named.notna().to_dict() == {2: True, 3: False}
    assert named[2].endswith(line_of("# the product"))
    assert len(calls) == 4  # none was made again
    assert not model._forward_hooks
    assert not model._forward_pre_hooks
