"""`gradlab limit`, of runs that nobody trained."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from made_up_runs import begin
from typer.testing import CliRunner, Result

import gradlab
from gradlab.cli.main import app
from gradlab.config import RunConfig
from gradlab.runs.verdict import Verdict
from gradlab.studies import Limit

pytestmark = pytest.mark.usefixtures("unrendered")

SMALL = ("--width", "16", "--n-layers", "2", "--max-seq-len", "8", "--device", "cpu")
RATES = ("--lowest", "1e-3", "--highest", "0.256", "--factor", "2")
LIMITS = {"pre-ln": 0.02, "normformer": 0.07}
RAMPS = {"pre-ln": 0.1, "normformer": 0.3}

Truth = Callable[[RunConfig], float]


@pytest.fixture
def judged(jobs_by: Callable[..., None]) -> Callable[..., None]:
    """Studies whose runs are judged at once: broken at a constant rate over the truth."""

    def judge(truth: Truth, *, until: int | None = None, fails: str = "") -> None:
        def write(folder: Path, config: RunConfig) -> str | None:
            if fails and fails in folder.name:
                return "no luck"
            ramp = config.schedule.kind == "ramp"
            broke = ramp or (config.schedule.lr or 0) > truth(config)
            lr = RAMPS.get(config.arch, 1.0) if ramp else config.schedule.lr
            reason = "loss_rise" if broke else "completed"
            begin(folder, config).finish("finished", Verdict(reason=reason, step=3, lr=lr))
            return None

        jobs_by(write, until=until)

    return judge


def truth(config: RunConfig) -> float:
    return LIMITS[config.arch] * 2**config.seed


def invoke(*arguments: str) -> Result:
    archs = () if "--arch" in arguments else ("--arch", "pre-ln", "--arch", "normformer")
    return CliRunner().invoke(app, ["limit", *SMALL, *RATES, *archs, *arguments])


def lines_of(result: Result) -> list[str]:
    return [" ".join(line.split()) for line in result.stdout.splitlines()]


def test_both_answers(tmp_path: Path, text: str, judged: Callable[..., None]) -> None:
    judged(truth)
    out = tmp_path / "study"
    result = invoke("--corpus", text, "--out", str(out), "--seeds", "2")
    assert result.exit_code == 0, result.output
    table = pd.read_csv(out / "limits.csv").set_index(["arch", "seed"])
    assert table["low"].to_dict() == {
        ("pre-ln", 0): 0.016,
        ("normformer", 0): 0.064,
        ("pre-ln", 1): 0.032,
        ("normformer", 1): 0.128,
    }
    assert (table["high"] == 2 * table["low"]).all()
    assert (table["tried"] <= 4).all()
    assert table["ramp"].tolist() == [0.1, 0.3] * 2
    said = " ".join(" ".join(lines_of(result)).split())
    # Both brackets are a factor of 2 wide, which two seeds do not tell from 4.
    assert "highest constant learning rate is not distinguished from pre-ln's: 4 times" in said
    assert "normformer's learning rate at the ramp's break is 3 times pre-ln's (95 %" in said
    assert "the order is the same: normformer > pre-ln." in said
    assert (out / "limit.png").exists()
    assert str(gradlab.inspect(out)).count("normformer") >= 2
    runs = pd.read_csv(out / "runs.csv")
    assert set(runs["schedule"]) == {"ramp", "constant"}
    assert runs.loc[runs["schedule"] == "ramp", "lr_break"].tolist() == [0.1, 0.3] * 2


def test_interrupted_and_resumed_it_is_the_same(
    tmp_path: Path, text: str, judged: Callable[..., None]
) -> None:
    judged(truth)
    whole = invoke("--corpus", text, "--out", str(tmp_path / "whole"), "--seeds", "2")
    assert whole.exit_code == 0, whole.output
    out = tmp_path / "parts"
    for until in (1, 5, 9, 3):
        judged(truth, until=until)
        result = invoke("--corpus", text, "--out", str(out), "--seeds", "2", "--resume")
        assert result.exit_code in (0, 130), result.output
    judged(truth)
    result = invoke("--corpus", text, "--out", str(out), "--seeds", "2", "--resume")
    assert result.exit_code == 0, result.output
    one, other = (pd.read_csv(folder / "limits.csv") for folder in (tmp_path / "whole", out))
    pd.testing.assert_frame_equal(one, other)
    names = [
        {run.name for run in folder.iterdir() if run.is_dir()}
        for folder in (out, tmp_path / "whole")
    ]
    assert names[0] == names[1]


def test_more_seeds_later(tmp_path: Path, text: str, judged: Callable[..., None]) -> None:
    judged(truth)
    for seeds in ("1", "2"):
        result = invoke(
            "--corpus", text, "--out", str(tmp_path / "s"), "--seeds", seeds, "--resume"
        )
        assert result.exit_code == 0, result.output
    assert len(pd.read_csv(tmp_path / "s" / "limits.csv")) == 4


@pytest.mark.parametrize(("limit", "option"), [(1e-9, "--lowest"), (9.0, "--highest")])
def test_beyond_the_rates(
    tmp_path: Path, text: str, judged: Callable[..., None], limit: float, option: str
) -> None:
    judged(lambda config: limit if config.arch == "pre-ln" else 0.02)
    result = invoke("--corpus", text, "--out", str(tmp_path / "s"), "--seeds", "1")
    assert result.exit_code == 0, result.output
    assert option in result.stdout


def test_a_run_that_fails_is_told_and_the_other_searches_go_on(
    tmp_path: Path, text: str, judged: Callable[..., None]
) -> None:
    judged(truth, fails="pre-ln_constant")
    result = invoke("--corpus", text, "--out", str(tmp_path / "s"), "--seeds", "1")
    assert result.exit_code == 1
    assert "1 of 6 runs failed.\nnano-d16_pre-ln_constant0.016_seed0: no luck" in result.stderr
    # The other bisection went on to its end.
    table = pd.read_csv(tmp_path / "s" / "limits.csv").set_index("arch")
    assert table["done"].to_dict() == {"pre-ln": False, "normformer": True}
    assert table["low"]["normformer"] == 0.064
    assert "pre-ln's bisection is not done in 1 of 1 seeds" in " ".join(lines_of(result))
    judged(truth)
    result = invoke("--corpus", text, "--out", str(tmp_path / "s"), "--seeds", "1", "--resume")
    assert result.exit_code == 0, result.output
    table = pd.read_csv(tmp_path / "s" / "limits.csv").set_index("arch")
    assert table["low"].to_dict() == {"pre-ln": 0.016, "normformer": 0.064}


def test_trained_it_finds_a_rate_between_the_ends(
    tmp_path: Path, text: str, trained_here: None
) -> None:
    study = Limit(
        **{"arch": "post-ln", "width": 16, "n_layers": 1, "max_seq_len": 8, "batch_size": 2},
        **{"lowest": 1e-3, "highest": 1000.0, "factor": 100.0, "steps": 12, "lr_step": 10.0},
        **{"ramp_steps": 12, "seeds": 1, "precision": "fp32", "device": "cpu", "corpus": text},
    )
    result = gradlab.run_study(study, tmp_path / "s", jobs=1)
    assert not result.failed
    sentences = gradlab.inspect(result).sentences
    assert all(isinstance(sentence, str) for sentence in sentences)
