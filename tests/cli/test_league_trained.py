"""A league of a few small runs that are trained."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest

import gradlab
from gradlab.analyses.league import MEASURES, league_seeds, step_costs, summarise_league
from gradlab.runs.study import StudySet
from gradlab.studies import League
from gradlab.studies import step_times as times_module

FEW: dict[str, Any] = {
    **{"width": 16, "n_layers": 2, "max_seq_len": 8, "batch_size": 2, "device": "cpu"},
    **{"seeds": 1, "steps": 12, "lr": [1e-3, 1e-2, 1e-1], "lowest": 1e-3, "highest": 0.512},
    **{"factor": 2.0},
}


def test_trained_it_has_every_measure(
    tmp_path: Path, text: str, trained_here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = partial(times_module.step_times, least=2, most=2)
    monkeypatch.setattr(times_module, "step_times", few)
    rates: dict[str, Any] = {"highest": 100.0, "factor": 100.0, "lr_step": 10.0, "ramp_steps": 12}
    league = League(**{**FEW, **rates, "lr": [1e-3, 1e-2]}, arch=["pre-ln", "peri-ln"], corpus=text)
    result = gradlab.run_study(league, tmp_path / "s", jobs=1)
    assert not result.failed
    assert isinstance(result, StudySet)
    table = summarise_league(league_seeds(result), step_costs(result))
    for arch in ("pre-ln", "peri-ln"):
        assert set(table.loc[table["arch"] == arch, "measure"]) >= {*MEASURES} - {"ramp", "limit"}
    assert gradlab.inspect(result).sentences
    drawn = gradlab.draw(result, only=["league", "limit"])
    assert "league" in drawn
