"""`gradlab league`, of runs that nobody trained, and of a few small ones."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from by_hand import geometric_interval, interval
from made_up_runs import begin, write_rows
from typer.testing import CliRunner, Result

import gradlab
from gradlab.analyses.league import league_seeds, step_costs, summarise_league
from gradlab.analyses.league_words import beside_sentences
from gradlab.cli.main import app
from gradlab.config import RunConfig
from gradlab.models.presets import ARCHITECTURES
from gradlab.pages.studies import studies_found
from gradlab.runs.study import STUDIES_FILE, StudySet, load_study
from gradlab.runs.verdict import Verdict
from gradlab.runs.writer import RunWriter
from gradlab.studies import League
from gradlab.studies import step_times as times_module
from gradlab.studies.step_times import StepTime

pytestmark = pytest.mark.usefixtures("unrendered")

SMALL = ("--width", "16", "--n-layers", "4", "--max-seq-len", "8", "--device", "cpu")
RATES = ("--lowest", "0.001", "--highest", "0.512", "--factor", "2", "--steps", "12")
RATES += ("--lr", "0.001", "--lr", "0.01", "--lr", "0.1", "--jobs", "1")
ARCHS = ("pre-ln", "peri-ln", "post-ln")
FEW: dict[str, Any] = {
    **{"width": 16, "n_layers": 2, "max_seq_len": 8, "batch_size": 2, "device": "cpu"},
    **{"seeds": 1, "steps": 12, "lr": [1e-3, 1e-2, 1e-1], "lowest": 1e-3, "highest": 0.512},
    **{"factor": 2.0},
}
LIMIT = {"pre-ln": 0.02, "peri-ln": 0.1, "post-ln": 0.005}
RAMP = {"pre-ln": 0.1, "peri-ln": 0.3, "post-ln": 0.05}
MISMATCH = {"pre-ln": 2.0, "peri-ln": 1.0, "post-ln": 0.5}
HEADROOM = {"pre-ln": 3.0, "peri-ln": 5.0, "post-ln": 4.0}
LOSS = {
    "pre-ln": {0.001: 3.0, 0.01: 2.0, 0.1: 4.0},
    "peri-ln": {0.001: 3.0, 0.01: 2.2, 0.1: 1.9},
    "post-ln": {0.001: 2.5, 0.01: 2.6, 0.1: None},
}
RATIO = {"pre-ln": 1.0, "peri-ln": 1.2, "post-ln": 0.95}
FIRST_LOSS = 5.5


def noise(config: RunConfig) -> float:
    """What a seed adds: another share in each architecture."""
    return 0.05 * config.seed * (1 + list(RATIO).index(config.arch))


@pytest.fixture
def made_up(
    monkeypatch: pytest.MonkeyPatch, jobs_by: Callable[..., None]
) -> Callable[..., list[list[str]]]:
    """Runs that are at their end at once; what was timed, in each call."""
    timed: list[list[str]] = []

    def step_times(configs: Sequence[RunConfig], **_: Any) -> list[StepTime]:
        timed.append([config.arch for config in configs])
        ratios = [RATIO[config.arch] for config in configs]
        return [StepTime(0.02 * r, r, 0.9 * r, 1.05 * r) for r in ratios]

    def make(*, until: int | None = None) -> list[list[str]]:
        jobs_by(write, until=until)
        monkeypatch.setattr(times_module, "step_times", step_times)
        return timed

    return make


def write(folder: Path, config: RunConfig) -> None:
    writer = begin(folder, config)
    kind, arch, last = config.schedule.kind, config.arch, config.steps - 1
    verdict = Verdict(reason="completed", step=last, lr=config.schedule.lr)
    val_loss: float | None = None
    if kind == "ramp":
        site = None if arch == "peri-ln" else "blocks.1.attention.scores"
        reason = "loss_rise" if site is None else "loss_nonfinite"
        lr = RAMP[arch] * math.exp(noise(config))
        verdict = Verdict(reason=reason, step=3, lr=lr, first_overflow=site)
    elif kind == "linear":
        loss = LOSS[arch][config.schedule.lr or 0]
        val_loss = None if loss is None else loss + noise(config)
        verdict = verdict if loss else Verdict(reason="loss_rise", step=last)
    elif "grad_norms" in config.record.probes:
        write_gradients(writer, config)
    elif (config.schedule.lr or 0) > LIMIT[arch] * 2**config.seed:
        verdict = Verdict(reason="loss_rise", step=2, lr=config.schedule.lr)
    steps = range(config.steps)
    write_rows(
        writer,
        "steps",
        step=steps,
        lr=[config.lr(step) for step in steps],
        loss=FIRST_LOSS,
        val_loss=[None] * last + [val_loss],
        seconds=[float(step) for step in steps],
    )
    writer.finish("finished", verdict)


def write_gradients(writer: RunWriter, config: RunConfig) -> None:
    """The first two of four layers' fc2 have the mismatch's share more; headroom falls."""
    factor = MISMATCH[config.arch] * math.exp(noise(config))
    rows = [(step, layer) for step in range(config.steps) for layer in range(4)]
    step, layer = zip(*rows, strict=True)
    write_rows(
        writer,
        "grad_norms",
        step=step,
        param=[f"blocks.{n}.feed_forward.fc2.weight" for n in layer],
        layer=layer,
        # Before the last third of the steps they are alike.
        grad_l1=[7.0 * (factor if layer < 2 and step >= 8 else 1) for step, layer in rows],
    )
    least = HEADROOM[config.arch] + noise(config)
    write_rows(
        writer,
        "headroom",
        step=step,
        site=[f"blocks.{n}.attention.scores" for n in layer],
        layer=layer,
        op="scores",
        headroom_bits=[least + (11 - step) + layer for step, layer in rows],
    )


def invoke(*arguments: str) -> Result:
    archs = [word for arch in ARCHS for word in ("--arch", arch)]
    given = [] if "--arch" in arguments else archs
    return CliRunner().invoke(app, ["league", *SMALL, *RATES, *given, *arguments])


def expected(arch: str, seed: int) -> dict[str, float]:
    """Every number of a seed, from what was written and nothing of gradlab's analyses."""
    extra = 0.05 * seed * (1 + list(RATIO).index(arch))
    highest = max(0.001 * 2**k for k in range(10) if 0.001 * 2**k <= LIMIT[arch] * 2**seed)
    losses = {lr: FIRST_LOSS if x is None else x + extra for lr, x in LOSS[arch].items()}
    best = min(losses, key=lambda lr: losses[lr])
    return {
        "ramp": RAMP[arch] * math.exp(extra),
        "limit": highest,
        "best_lr": best,
        "loss": losses[best],
        "sensitivity": float(np.mean([loss - losses[best] for loss in losses.values()])),
        "mismatch": MISMATCH[arch] * math.exp(extra),
        "headroom": HEADROOM[arch] + extra,
    }


PLAIN = ("loss", "sensitivity", "headroom")


def test_every_number_of_every_architecture(
    tmp_path: Path, text: str, made_up: Callable[..., None]
) -> None:
    made_up()
    out = tmp_path / "league"
    result = invoke("--corpus", text, "--out", str(out))
    assert result.exit_code == 0, result.output

    seeds = pd.read_csv(out / "seeds.csv")
    found = {(r["arch"], r["seed"], r["measure"]): r["value"] for r in seeds.to_dict("records")}
    wanted = {
        (arch, seed, name): value
        for arch in ARCHS
        for seed in range(3)
        for name, value in expected(arch, seed).items()
    }
    assert found == pytest.approx(wanted)
    assert not seeds["bound"].any()

    table = pd.read_csv(out / "league.csv").set_index(["arch", "measure"])
    for arch in ARCHS:
        for name in expected(arch, 0):
            values = [expected(arch, seed)[name] for seed in range(3)]
            row = table.loc[(arch, name)]
            ends = (interval if name in PLAIN else geometric_interval)(values)
            assert row[["value", "low", "high"]].tolist() == pytest.approx(ends)
        cost = table.loc[(arch, "cost")]
        assert cost[["value", "low", "high"]].tolist() == pytest.approx(
            [RATIO[arch], 0.9 * RATIO[arch], 1.05 * RATIO[arch]]
        )
    assert list(dict.fromkeys(table.index.get_level_values("arch"))) == [
        *("peri-ln", "pre-ln", "post-ln")
    ]

    apart = pd.read_csv(out / "differences.csv").set_index(["measure", "arch"])
    for arch in ("peri-ln", "post-ln"):
        for name in expected(arch, 0):
            pairs = [
                (expected(arch, seed)[name], expected("pre-ln", seed)[name]) for seed in range(3)
            ]
            if name in PLAIN:
                none, ends = 0, interval(a - b for a, b in pairs)
            else:
                none, ends = 1, geometric_interval(a / b for a, b in pairs)
            row = apart.loc[(name, arch)]
            assert row[["difference", "low", "high"]].tolist() == pytest.approx(ends)
            assert row["distinguished"] == (ends[1] > none or ends[2] < none)

    said = " ".join(result.stdout.split())
    assert "pre-ln (3 of 3, first at blocks.1.attention.scores)" in said
    assert "The ramp broke without an FP16 overflow in peri-ln (3)." in said
    assert "rank the 3 architectures alike to a correlation of 1.00 (Spearman)" in said
    assert (out / "league.png").exists()
    assert str(gradlab.inspect(out)).count("peri-ln") >= 3
    record = load_study(out)
    assert isinstance(record, StudySet)
    assert record.command is not None
    assert record.command.name == "league"

    page = {one.heading.partition(" ")[0]: one for one in studies_found([out])}
    assert list(page) == ["league", "grad-norms", "limit", "lr-search"]
    assert [picture.kind for picture in page["league"].pictures] == [
        "The architectures side by side"
    ]
    assert list(page["league"].sentences) == list(gradlab.inspect(out).sentences)
    assert len(page["limit"].pictures) == 1


def test_more_architectures_later_are_timed_beside_the_baseline(
    tmp_path: Path, text: str, made_up: Callable[..., list[list[str]]]
) -> None:
    timed = made_up()
    whole = League(**FEW, arch=ARCHS, corpus=text)
    first = whole.replace(arch=ARCHS[::2])
    before = gradlab.run_study(whole, tmp_path / "whole", jobs=1)
    out = tmp_path / "parts"
    for until in (1, 7):
        made_up(until=until)
        with pytest.raises(KeyboardInterrupt):
            gradlab.run_study(first, out, jobs=1, resume=True)
    made_up()
    gradlab.run_study(first, out, jobs=1, resume=True)
    after = gradlab.run_study(whole, out, jobs=1, resume=True)
    assert timed == [list(ARCHS), ["pre-ln", "post-ln"], ["pre-ln", "peri-ln"]]
    tables = []
    for record in (before, after):
        assert isinstance(record, StudySet)
        table = summarise_league(league_seeds(record), step_costs(record))
        tables.append(table.sort_values(["arch", "measure"], ignore_index=True))
    pd.testing.assert_frame_equal(*tables)


def test_one_study_alone(tmp_path: Path, text: str, made_up: Callable[..., None]) -> None:
    made_up()
    out = tmp_path / "league"
    result = invoke("--corpus", text, "--out", str(out), "--only", "limit", "--seeds", "1")
    assert result.exit_code == 0, result.output
    assert set(pd.read_csv(out / "league.csv")["measure"]) == {"ramp", "limit"}
    assert [file.parent.name for file in out.glob("*/study.json")] == ["limit"]
    assert invoke("--corpus", text, "--out", str(out), "--seeds", "2").exit_code == 2


def test_beside_another(tmp_path: Path, text: str, made_up: Callable[..., None]) -> None:
    made_up()
    one = tmp_path / "one"
    league = League(**{**FEW, "seeds": 2}, arch=ARCHS, only="limit", corpus=text)
    gradlab.run_study(league, one, jobs=1)
    few = ("--corpus", text, "--only", "limit", "--seeds", "2")
    result = invoke(*few, "--out", str(tmp_path / "other"), "--beside", str(one))
    assert result.exit_code == 0, result.output
    said = " ".join(result.stdout.split())
    assert f"Against those in {one}, the learning rate at the ramp's break is not" in said
    assert "LR at the break 1.00 (3), highest constant LR 1.00 (3)." in said
    wrong = invoke(*few, "--out", str(tmp_path / "third"), "--beside", f"{one}/limit")
    assert wrong.exit_code == 2
    assert "holds no league: make one with gradlab league" in wrong.stderr
    assert not (tmp_path / "third").exists()


def test_the_studies_of_another_command_are_left_alone(
    tmp_path: Path, text: str, made_up: Callable[..., None]
) -> None:
    made_up()
    note = {"command": {"name": "claims", "options": {}}}
    (tmp_path / STUDIES_FILE).write_text(json.dumps(note))
    only = ("--corpus", text, "--only", "limit", "--seeds", "1")
    inside = tmp_path / "limit"
    assert CliRunner().invoke(
        app, ["limit", *SMALL, "--arch", "pre-ln", "--corpus", text, "--seeds", "1",
              "--lowest", "0.01", "--highest", "0.1", "--factor", "5", "--out", str(inside)]
    ).exit_code == 0  # fmt: skip
    refused = invoke(*only, "--out", str(tmp_path), "--resume")
    assert refused.exit_code == 2
    assert "holds the studies of `gradlab claims`" in refused.stderr


def test_all_architectures_but_the_ablations_by_default() -> None:
    studies = League().studies()
    assert list(studies) == ["grad-norms", "limit", "lr-search"]
    for study in studies.values():
        assert {config.arch for config in study.configs()} == set(ARCHITECTURES)
    switches: dict[str, Any] = {"qk_norm": "heads", "weight_decay": 0.1, "batch_size": 4}
    wide = League(width=768, arch="pre-ln", **switches)
    for study in wide.studies().values():
        for config in study.configs():
            assert (config.size, config.model.qk_norm) == ("nano-d768", "heads")
            assert (config.optimizer.weight_decay, config.batch_size) == (0.1, 4)
    assert wide.command().line == (
        "gradlab league --arch pre-ln --width 768 --batch-size 4 --weight-decay 0.1 --qk-norm heads"
    )
    assert wide.folder() == Path("studies/league-nano-d768")


def test_losses_of_another_objective_do_not_compare(
    tmp_path: Path, text: str, made_up: Callable[..., None]
) -> None:
    made_up()
    leagues = []
    for objective in ("causal", "masked"):
        settings = {**FEW, "seeds": 2, "objective": objective}
        league = League(**settings, arch=ARCHS, only="lr-search", corpus=text)
        record = gradlab.run_study(league, tmp_path / objective, jobs=1)
        assert isinstance(record, StudySet)
        leagues.append(record)
    apart, alike = (" ".join(beside_sentences(leagues[0], other)) for other in leagues[::-1])
    assert "The losses do not compare with those there: the objectives differ." in apart
    assert "the best learning rate is" in apart
    assert "validation loss" not in apart
    assert "validation loss" in alike
    assert "do not compare" not in alike
