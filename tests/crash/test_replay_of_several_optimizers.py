"""Of the optimizers of a loop those step again that stepped."""

import json
import math
from pathlib import Path

import pandas as pd
import pytest
import torch
from bad_loops import kept_steps
from torch import Tensor, nn

import gradlab


class Gan(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.g, self.d = nn.Linear(3, 2), nn.Linear(2, 1)

    def forward(self, z: Tensor, detach: bool = False) -> Tensor:
        x: Tensor = self.g(z)
        return self.d(x.detach() if detach else x)  # type: ignore[no-any-return]


def two_optimizers(folder: Path, turns: bool, detach: bool, scaled: bool) -> list[str]:
    """A loop of which the discriminator's third pass is bad: what its step then broke."""
    model = Gan()
    optimizers = [torch.optim.AdamW(part.parameters()) for part in (model.d, model.g)]
    scaler = torch.amp.GradScaler("cpu", enabled=scaled)
    with gradlab.attach(model, optimizers, scaler=scaler, keep=folder) as probes:
        for step in range(3):
            for groups in [[0], [1]] if turns else [[0, 1]]:
                model.zero_grad()
                factor = math.nan if step == 2 and 0 in groups else 1.0
                out = model(torch.ones(2, 3), detach and groups == [0])
                scaler.scale(out.mean() * factor).backward()
                for index in groups:
                    scaler.step(optimizers[index])
                scaler.update()
    return updated(probes.table("faults"), kept_steps(folder)[0])


def updated(faults: pd.DataFrame, step: int) -> list[str]:
    return sorted(faults[(faults["step"] == step) & (faults["what"] == "update")]["name"])


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("turns", [False, True])
def test_the_optimizers_step_that_stepped(
    turns: bool, detach: bool, scaled: bool, tmp_path: Path
) -> None:
    broken = two_optimizers(tmp_path / "crash", turns, detach, scaled)
    assert len(broken) == (0 if scaled else 2 if turns else 4)
    again = gradlab.replay(tmp_path / "crash", Gan())
    assert updated(again.run.table("faults"), again.step) == broken
    assert again.run.table("steps")["skipped"].tolist() == [scaled]


def test_of_a_step_of_which_nobody_noted_that_all_with_gradients_do(tmp_path: Path) -> None:
    """As of one kept by an earlier version, or if the process was killed within it."""
    two_optimizers(tmp_path / "crash", turns=True, detach=True, scaled=True)
    index = tmp_path / "crash" / "bundle.json"
    told = json.loads(index.read_text())
    assert told["steps"][0].pop("stepped") == [0]
    index.write_text(json.dumps(told))
    assert gradlab.replay(tmp_path / "crash", Gan()).run.table("steps")["skipped"].tolist() == [
        True
    ]
