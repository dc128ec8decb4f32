import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from gradlab.analyses.claim import RULE
from gradlab.analyses.claim_words import number_text
from gradlab.analyses.claims import CLAIMS
from gradlab.cli.main import app
from gradlab.config import RunConfig
from gradlab.models.presets import TABLE_4
from gradlab.pages.claims import TITLES, markdown_table
from gradlab.studies import step_times as times_module
from gradlab.studies.claims import AT_WIDTH, STUDIES
from gradlab.studies.step_times import StepTime
from gradlab.studies.study import Study

pytestmark = pytest.mark.usefixtures("unrendered")

WORTH = dict(zip(TABLE_4, [0.0, 0.1, 0.2, -0.3, 0.1, 0.1, 0.5], strict=True))
SMALL: dict[str, Any] = {
    "n_layers": 2,
    "max_seq_len": 8,
    "batch_size": 2,
    "device": "cpu",
    "window": 2,
}
FEW_STEPS: dict[str, dict[str, Any]] = {
    "gradients": {"size": "nano", "width": 16, "steps": 8, "warmup": 2, "average": 2},
    "scales": {"width": 16, "steps": 9, "warmup": 2, "average": 2},
    "stability": {"width": [16], "lr_step": [500.0], "steps": 40},
    "ablation": {"width": 16, "steps": 8, "warmup": 2, "val_every": 3, "val_batches": 1},
}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """The studies in a few steps of a small model, whose steps all take as long."""
    for name, study in STUDIES.items():
        few = {**SMALL, "corpus": text, **FEW_STEPS[name]}
        monkeypatch.setitem(STUDIES, name, study.replace(**few))

    def step_times(configs: Sequence[RunConfig], **_: Any) -> list[StepTime]:
        return [StepTime(*[1.0] * len(fields(StepTime)))] * len(configs)

    monkeypatch.setattr(times_module, "step_times", step_times)


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["claims", "--jobs", "1", *arguments])


def worth(config: RunConfig) -> float:
    return 2 + WORTH[config.arch] + 0.01 * config.seed


def rows_of(out: Path) -> dict[str, dict[str, Any]]:
    return pd.read_csv(out / "claims.csv").set_index("claim").to_dict("index")


def test_the_studies_are_those_of_the_claims_and_of_the_figures() -> None:
    assert {claim.study for claim in CLAIMS} == set(STUDIES)
    assert len(TITLES) == 6


def test_one_study_has_its_claims_and_the_others_are_said_to_be_missing(
    tmp_path: Path, fake_jobs: Callable[..., None]
) -> None:
    fake_jobs(lambda c: None if (c.arch, c.seed) == ("plus-3-more-ln", 0) else worth(c))
    out = tmp_path / "claims"
    result = invoke("--only", "ablation", "--out", str(out))
    assert result.exit_code == 0, result.output
    table = rows_of(out)
    assert list(table) == [claim.name for claim in CLAIMS if claim.study == "ablation"]
    assert result.stdout.count("Not begun: gradients, scales, stability.") == 1
    assert table["without-ffn-ln"]["verdict"] == "seen"
    assert table["without-ffn-ln"]["number"] == pytest.approx(1.2214, abs=1e-4)
    assert table["without-head-scale"]["verdict"] == "not seen"
    assert (table["without-ffn-ln"]["seeds"], table["plus-3-more-ln"]["seeds"]) == (3, 2)
    assert table["normformer-perplexity"]["verdict"] == "seen"
    assert table["normformer-perplexity"]["size"] == "nano-d16"
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert (
        "Without the FFN LN NormFormer is worse (table 4) nano-d16 1.221 (1.221 to 1.221) 3 seen"
        in lines
    )
    assert f"{RULE}." in " ".join(lines)

    page = (out / "claims.md").read_text()
    assert "$ gradlab ablate " in page
    assert " --steps 8 " in page
    assert f"--out {out / 'ablation'}\n" in page
    assert (
        "| Without head scales NormFormer is worse | table 4 | `nano-d16` | **not seen** |" in page
    )
    assert "Not begun: gradients, scales, stability." in page
    assert "![Validation perplexity against training time](figures/perplexity.png)" in page
    assert (out / "figures" / "perplexity.pdf").exists()
    assert (out / "ablation" / "summary.csv").exists()


def test_what_is_there_is_kept_with_resume_only(
    tmp_path: Path, fake_jobs: Callable[..., None]
) -> None:
    out = tmp_path / "the claims"
    arguments = ("--only", "ablation", "--out", str(out))
    fake_jobs(worth, until=2)
    stopped = invoke(*arguments)
    assert stopped.exit_code == 130
    go_on = f"`gradlab claims --only ablation --out '{out}' --resume"
    assert go_on in stopped.stderr
    assert {row["verdict"] for row in rows_of(out).values()} == {"2 of 21 runs so far"}
    assert "Not begun: gradients, scales, stability." in stopped.stdout
    assert not (out / "figures").exists()

    fake_jobs(worth)
    refused = invoke(*arguments)
    assert refused.exit_code == 2
    assert go_on in refused.stderr
    page = (out / "claims.md").read_text()
    resumed = invoke(*arguments, "--resume", "--seeds", "4")
    assert resumed.exit_code == 0, resumed.output
    assert rows_of(out)["without-ffn-ln"]["seeds"] == 4
    # The page has the command as the study was made.
    assert " --seeds 4 --out" not in page
    assert " --seeds 4 " in (out / "claims.md").read_text()


def test_what_cannot_be_done_is_a_sentence(tmp_path: Path) -> None:
    result = invoke("--only", "gradient", "--out", str(tmp_path / "claims"))
    assert result.exit_code == 2
    assert "gradients" in result.stderr
    assert result.stderr.count("\n") == 1
    (tmp_path / "full" / "scales").mkdir(parents=True)
    (tmp_path / "full" / "scales" / "file").write_text("")
    result = invoke("--out", str(tmp_path / "full"))
    assert result.exit_code == 2
    assert "not a study" in result.stderr
    assert not (tmp_path / "full" / "gradients").exists()
    (tmp_path / "other" / "run").mkdir(parents=True)
    result = invoke("--out", str(tmp_path / "other"))
    assert result.exit_code == 2
    assert "not a study" in result.stderr
    assert [file.name for file in (tmp_path / "other").iterdir()] == ["run"]


def make_alone(study: Study, out: Path) -> None:
    """A study by its own command."""
    _, *words = shlex.split(study.command().line)
    result = CliRunner().invoke(app, [*words, "--jobs", "1", "--out", str(out)])
    assert result.exit_code == 0, result.output


@pytest.mark.usefixtures("trained_here")
@pytest.mark.long
def test_studies_that_were_made_alone_are_judged_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(AT_WIDTH, "gradients", {"size": "nano"})
    out = tmp_path / "wide"
    more = {"width": 24, "seeds": 3, "arch": ["post-ln", "pre-ln", "normformer"]}
    more["arch"].append("normformer-resscale")
    for name in ("gradients", "stability"):
        make_alone(STUDIES[name].replace(**more), out / name)
    begun = (out / "stability" / "study.json").read_text()
    before = {file: file.stat().st_mtime_ns for file in out.glob("*/*/run.json")}
    arguments = ("--width", "24", "--seeds", "2", "--out", str(out))

    refused = invoke("--only", "stability", *arguments)
    assert refused.exit_code == 2
    assert "--resume" in refused.stderr

    result = invoke("--only", "stability", "--only", "gradients", *arguments, "--resume")
    assert result.exit_code == 0, result.output
    assert before == {file: file.stat().st_mtime_ns for file in out.glob("*/*/run.json")}
    assert (out / "stability" / "study.json").read_text() == begun
    rows = rows_of(out)
    assert {row["size"] for row in rows.values()} == {"nano-d24"}
    assert {row["study"] for row in rows.values()} == {"gradients", "stability"}
    assert rows["normformer-fc2"]["seeds"] == 3
    assert "Not begun: scales, ablation." in result.stdout
    page = (out / "claims.md").read_text()
    assert f"--out {out / 'scales'}\n" in page
    assert page.count("--width 24") == 4

    # One more seed than there is: of all the architectures that the study has.
    result = invoke(
        "--only", "stability", *arguments[:2], "--seeds", "4", *arguments[4:], "--resume"
    )
    assert result.exit_code == 0, result.output
    assert len(list((out / "stability").glob("*_seed3/run.json"))) == 4

    # A study that is another now is refused, with what differs.
    result = invoke("--only", "stability", "--width", "16", "--out", str(out), "--resume")
    assert result.exit_code == 2
    assert "begun with `gradlab run-stability" in result.stderr


def test_other_claims_stand_beside(tmp_path: Path, fake_jobs: Callable[..., None]) -> None:
    fake_jobs(worth)
    narrow, wide = (str(tmp_path / name) for name in ("narrow", "wide"))
    assert invoke("--only", "ablation", "--out", narrow).exit_code == 0
    result = invoke(
        *("--only", "ablation", "--width", "24", "--out", wide, "--beside", narrow, "--seeds", "2")
    )
    assert result.exit_code == 0, result.output
    assert {row["size"] for row in rows_of(Path(wide)).values()} == {"nano-d24"}
    page = (Path(wide) / "claims.md").read_text()
    assert "| claim | paper | nano-d16 | nano-d24 | what the number is |" in page
    (row,) = (line for line in page.splitlines() if "Without the FFN LN" in line)
    assert "| **seen** 1.221 (1.221 to 1.221), 3 seeds | **seen** 1.221 " in row
    assert "2 seeds |" in row
    refused = invoke("--out", str(tmp_path / "new"), "--beside", str(tmp_path))
    assert refused.exit_code == 2
    assert "claims.csv" in refused.stderr
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("number", "low", "high", "side", "text"),
    [
        (0.6912, 0.5721, 0.8403, {"below": 1.0}, "0.69 (0.57 to 0.84)"),
        (1.4, 0.581, 3.36, {"above": 1.0}, "1.4 (0.6 to 3.4)"),
        (-0.0101, -0.0211, -0.00005, {"below": 0.0}, "−0.0101 (−0.0211 to −0.0001)"),
        (1.003, 0.998, 1.008, {"above": 1.0}, "1.0030 (0.9980 to 1.0080)"),
        (26.2, 12.4, 40.7, {}, "26 (12 to 41)"),
        (1.2345, float("nan"), float("nan"), {}, "1.23"),
        (float("nan"), float("nan"), float("nan"), {}, "–"),
        (2.0, 2.0, 2.0, {"above": 1.0}, "2.000 (2.000 to 2.000)"),
        (8.86e-7, 6.45e-10, 0.00122, {"below": 1.0}, "8.9e−07 (6.5e−10 to 0.0012)"),
        (0.1, 1e-7, 0.9996, {"below": 1.0}, "0.1 (1e−07 to 0.9996)"),
        (0.1, 1e-7, 1.0, {"below": 1.0}, "0.1 (1e−07 to 1)"),
        (0.5, 0.2, 1 - 1e-12, {"below": 1.0}, "0.5 (0.2 to 0.999999999999)"),
        (1.0, 0.004, 251.0, {"below": 1.0}, "1 (0.004 to 250)"),
        (5.0, 0.00012, 98765.0, {"above": 1.0}, "5 (0.00012 to 99000)"),
        (3.0, 0.0, float("inf"), {"above": 1.0}, "3 (0 to inf)"),
        (-0.1, -0.9996, -1e-7, {"above": -1.0}, "−0.1 (−0.9996 to −1e−07)"),
    ],
)
def test_numbers_have_the_digits_that_their_interval_gives(
    number: float, low: float, high: float, side: dict[str, float], text: str
) -> None:
    edges = {"above": float("-inf"), "below": float("inf"), **side}
    assert number_text({"number": number, "low": low, "high": high, **edges}) == text


def test_a_bar_in_a_sentence_is_no_column_of_markdown() -> None:
    row = {"says": "it is so", "source": "table 4", "size": "nano", "meaning": "a ratio"}
    row |= {"verdict": "no number: a|b is damaged", "seeds": 0, "above": 0.0, "below": 1.0}
    table = pd.DataFrame([row | dict.fromkeys(("number", "low", "high"), float("nan"))])
    assert {line.count("|") for line in markdown_table(table).splitlines()} == {8}


@pytest.mark.long
def test_all_studies_from_the_command_to_the_page(tmp_path: Path) -> None:
    out = tmp_path / "claims"
    result = invoke("--out", str(out), "--seeds", "1", "--jobs", "2")
    assert result.exit_code == 0, result.output
    table = rows_of(out)
    for name, row in table.items():
        assert "no number" not in row["verdict"], (name, row)
    assert table["lambda-depth"]["seeds"] == 1
    page = (out / "claims.md").read_text()
    for stem, title in TITLES.items():
        assert f"![{title}](figures/{stem}.png)" in page
        assert (out / "figures" / f"{stem}.png").exists()
    for name, study in STUDIES.items():
        document = json.loads((out / name / "study.json").read_text())
        assert document["command"]["name"] == study.command_name
    resumed = invoke("--out", str(out), "--seeds", "1", "--resume")
    assert resumed.exit_code == 0, resumed.output
    assert (out / "claims.md").read_text() == page
