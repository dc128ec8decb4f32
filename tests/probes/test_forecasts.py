"""The table `forecasts` of a loop of one's own, whose end is planted."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import gradlab
from gradlab.probes import AttentionScores, GradientNorms, Headroom
from gradlab.runs.memory import MemoryWriter
from gradlab.runs.reader import Run

END = 120
"""The step at which the planted tensor leaves FP16's range."""


class Cast(nn.Module):
    """What it is given, in another type."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        return x.to(self.dtype)


class Attention(nn.Module):
    """Scores that no module gives, on their way into a softmax."""

    def forward(self, x: Tensor) -> Tensor:
        scores = (x.half()[:, None] * torch.ones(4).half()).view(1, 1, 4, 4)
        return torch.softmax(scores, -1)


class Growing(nn.Module):
    """What `grows` is given does so by a twentieth of a bit a call; what `stays` gives does not."""

    def __init__(self, dtype: torch.dtype, grows: nn.Module | None = None) -> None:
        super().__init__()
        self.stays, self.grows = Cast(dtype), grows or Cast(dtype)
        self.weight = nn.Parameter(torch.ones(4))
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        size = 2.0 ** (16 - 0.05 * (END - self.calls))
        self.calls += 1
        return self.stays(self.weight * x).float().sum() + self.grows(x * size).float().mean() * 0


def trained(
    steps: int,
    *,
    dtype: torch.dtype = torch.float16,
    grows: nn.Module | None = None,
    **settings: Any,
) -> Run:
    """A loop with probes attached, which knows nothing of the model's end."""
    model = Growing(dtype, grows)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with gradlab.attach(model, optimizer, **{"probes": [Headroom()], **settings}) as probes:
        for _ in range(steps):
            optimizer.zero_grad()
            model(torch.ones(4)).backward()
            optimizer.step()
    return probes.run()


@pytest.mark.parametrize("every", [1, 10])
def test_the_overflow_is_foreseen_before_it_comes(tmp_path: Path, every: int) -> None:
    trained(END + 1, every=every, out=tmp_path / "run")
    run = gradlab.load(tmp_path / "run")
    overflows, forecasts = run.table("overflows"), run.table("forecasts")
    assert overflows["step"].tolist() == [END]
    assert forecasts["step"].iloc[0] <= END - 30
    assert forecasts["step"].iloc[-1] == END - every
    assert set(forecasts["site"]) == {"grows"}
    assert (forecasts["overflow_step"] - END).abs().max() <= 2


def test_scores_that_no_module_gives_are_foreseen_where_they_are_recorded() -> None:
    probes = [Headroom(), AttentionScores()]
    forecasts = trained(END, grows=Attention(), probes=probes, every=5).table("forecasts")
    assert forecasts["step"].iloc[0] <= END - 30
    assert set(forecasts["site"]) == {"grows"}
    assert (forecasts["overflow_step"] - END).abs().max() <= 2
    assert trained(END, grows=Attention()).table("forecasts").empty


def test_where_nothing_can_overflow_nothing_is_foreseen() -> None:
    assert trained(END, dtype=torch.float32).table("forecasts").empty
    assert "forecasts" not in trained(3, probes=[GradientNorms()]).tables


def test_it_is_the_same_however_often_rows_are_written() -> None:
    often, once = (trained(END, window=window).table("forecasts") for window in (7, 500))
    pd.testing.assert_frame_equal(often, once)


def test_a_table_of_that_name_that_somebody_had_before_is_read_as_theirs() -> None:
    own = {"tables": ["steps", "forecasts"], "own_tables": {"forecasts": {"sales": "int"}}}
    writer = MemoryWriter(None, own)
    writer.write("forecasts", {"step": [0], "sales": [7]})
    run = writer.run()
    assert run.tables == ("steps", "forecasts")
    assert run.table("forecasts")["sales"].tolist() == [7]
    assert "sales" not in str(gradlab.inspect(run))


def test_inspect_says_what_is_left_and_afterwards_that_it_was_foreseen() -> None:
    assert "About 40 steps left at grows, as of step 80, which is rough: " in str(
        gradlab.inspect(trained(81))
    )
    said = " ".join(str(gradlab.inspect(trained(END + 1))).split())
    assert f"The overflow at step {END} was foreseen first at step" in said
    assert "steps left at grows" in said
