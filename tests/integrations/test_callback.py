"""Where a trainer's callback records: never over what is there."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim import SGD

import gradlab
from gradlab.integrations.callback import AttachingCallback, free_folder


def test_the_first_training_is_where_it_was_asked_to_be(tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    assert free_folder(out, 0, is_first=True) == out  # attach refuses one that holds something


@pytest.mark.parametrize(
    ("first_step", "is_first", "names"),
    [
        (500, True, ["run-from-500", "run-from-500-2", "run-from-500-3"]),
        (500, False, ["run-from-500", "run-from-500-2", "run-from-500-3"]),
        (0, False, ["run-2", "run-3", "run-4"]),
    ],
)
def test_another_training_is_beside_it(
    tmp_path: Path, first_step: int, is_first: bool, names: list[str]
) -> None:
    out = tmp_path / "run"
    out.mkdir()
    for name in names:
        found = free_folder(out, first_step, is_first)
        assert found == tmp_path / name
        found.mkdir()


def test_a_bad_step_is_kept_of_each_training(tmp_path: Path) -> None:
    callback = AttachingCallback(keep=tmp_path / "crash", keep_steps=2)
    for first_step, folder in ((0, "crash"), (7, "crash-from-7")):
        model = nn.Sequential(nn.Linear(1, 1))
        optimizer = SGD(model.parameters(), lr=1.0)
        callback._begin(model, [optimizer], None, first_step)
        model(torch.full((1, 1), torch.nan)).sum().backward()
        optimizer.step()
        callback._close()
        assert gradlab.replay(tmp_path / folder, model).step == first_step
