"""Few checkpoints are kept, and one of them lies far enough back, however far apart they are."""

import random
from pathlib import Path

import pytest
import torch
from planted_break import BREAK, planted

from gradlab.training.checkpoint import LEAD, Checkpoint, Checkpoints, found, step_of
from gradlab.training.loop import train

REACH = 60


def ring(place: Path) -> Checkpoints:
    def take() -> Checkpoint:
        return Checkpoint({}, {"x": torch.zeros(1)})

    return Checkpoints(place, 1, take, size=1, first_step=0, reach=REACH)


def spacings() -> dict[str, list[int]]:
    draw = random.Random(0)
    any_way = [draw.choice([1, 2, 7, 20, 40, 59, 60, 61, 300]) for _ in range(60)]
    return {"1": [1] * 150, "13": [13] * 40, "59": [59] * 9, "60": [60] * 6, "any": any_way}


@pytest.mark.parametrize("gaps", spacings().values(), ids=spacings().keys())
def test_there_is_always_one_from_long_enough_before(tmp_path: Path, gaps: list[int]) -> None:
    checkpoints, saved = ring(tmp_path), [0]
    for gap in gaps:
        saved.append(saved[-1] + gap)
        checkpoints.save(saved[-1])
        kept = sorted(step_of(path) for path in found(tmp_path))
        assert len(kept) <= 4
        assert kept[-2:] == saved[1:][-2:]
        early = [step for step in saved[1:] if step <= saved[-1] - REACH]
        if early:
            assert kept[0] <= saved[-1] - REACH
        else:
            assert kept[0] == saved[1]
        if min(gaps) >= REACH:
            assert len(kept) <= 2


@pytest.mark.parametrize(("broke_at", "held"), [(500, 440), (490, 440), (460, 440), (430, None)])
def test_of_a_break_the_newest_from_before_its_lead_is_held(
    tmp_path: Path, broke_at: int, held: int | None
) -> None:
    checkpoints = ring(tmp_path)
    for step in (380, 440, 500):
        checkpoints.save(step)
    checkpoints.hold(broke_at)
    checkpoints.hold(0)  # a run that goes on has broken once
    checkpoints.save(900)
    checkpoints.end()
    assert [step_of(path) for path in found(tmp_path)] == ([held] if held is not None else [])
    assert (tmp_path / "checkpoints").exists() == (held is not None)


def test_a_run_that_goes_on_keeps_what_lies_before_its_break(make_config, tmp_path: Path) -> None:
    config = planted(make_config, stop_when_destabilised=False, steps=BREAK + 150)
    run = train(config, tmp_path / "run")
    assert run.verdict is not None
    assert run.verdict.step == BREAK
    (kept,) = found(tmp_path / "run")
    assert step_of(kept) <= BREAK - LEAD
