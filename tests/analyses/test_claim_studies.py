"""What the claims take of studies that their own commands began, with more or other runs."""

import math
from pathlib import Path
from typing import Any

import pytest
from made_up_runs import begin

from gradlab.analyses.claim_estimates import break_ratio
from gradlab.analyses.claim_studies import read_studies
from gradlab.runs.study import run_name
from gradlab.runs.verdict import Verdict
from gradlab.studies import Ablation, Claims, Stability
from gradlab.studies.folder import claim
from gradlab.studies.study import Study

LR = {"pre-ln": 0.1, "normformer": 0.07}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text("a rose is a rose is a rose. " * 9)
    return file


def make(study: Study, folder: Path) -> None:
    """The study, whose runs break at once: at a hundredth of the rate but on the claims' own."""
    plan = {run_name(config): config for config in study.configs()}
    folder.mkdir(parents=True)
    claim(folder, plan, resume=False, notes=study.command().note())
    for name, config in plan.items():
        own = config.size == "nano" and config.schedule.lr_step == 2e-4
        lr = LR.get(config.arch, 1.0) * math.exp(0.01 * config.seed)
        lr *= 1 if own else config.seed + 0.01
        begin(folder / name, config).finish("finished", Verdict(reason="loss_rise", step=2, lr=lr))


@pytest.mark.parametrize(
    "more",
    [
        {"arch": ["normformer", "pre-ln", "normformer-resscale"], "lr_step": 2e-4},
        {"arch": list(LR), "lr_step": [5e-5, 2e-4]},
        {"arch": list(LR), "lr_step": 2e-4, "size": ["micro", "nano"]},
    ],
)
def test_the_claims_take_their_own_runs_in_any_order(
    tmp_path: Path, more: dict[str, Any], text: Path
) -> None:
    make(Stability(corpus=str(text), seeds=2, **more), tmp_path / "stability")
    found = read_studies(tmp_path)["stability"]
    assert (found.size, found.missing) == ("nano", "")
    ratio = break_ratio(found.tables["stability"], "normformer", "pre-ln")
    assert ratio.seeds == 2
    assert ratio.number == pytest.approx(0.7)


def test_of_several_ramps_none_of_which_is_theirs_there_is_no_number(
    tmp_path: Path, text: Path
) -> None:
    study = Stability(corpus=str(text), seeds=1, lr_step=[1e-3, 2e-3], arch=list(LR))
    make(study, tmp_path / "stability")
    assert "several sizes or ramps" in read_studies(tmp_path)["stability"].missing


def test_an_ablation_at_equal_steps_is_not_the_claims(tmp_path: Path, text: Path) -> None:
    rows: dict[str, Any] = {"row": ["pre-ln", "normformer"], "seeds": 1, "corpus": str(text)}
    make(Ablation(val_every=25, equal="steps", **rows), tmp_path / "ablation")
    assert "is not at equal time with pre-ln" in read_studies(tmp_path)["ablation"].missing
    begun = tmp_path / "begun" / "ablation"
    begun.mkdir(parents=True)
    study = Ablation(val_every=25, equal="steps", seeds=3)
    plan = {run_name(config): config for config in study.configs()}
    claim(begun, plan, resume=False, notes=study.command().note())
    assert Claims().as_begun(tmp_path / "begun")["ablation"].command().line == (
        Claims().studies()["ablation"].command().line
    )
