"""Changes are tried one at a time, and what removes a break is known beforehand."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from planted_break import BREAK, LEFT_AT, planted
from tiny_runs import config_of

import gradlab
from gradlab.config import OptimizerConfig, PrecisionConfig
from gradlab.errors import ConfigError, GradlabError
from gradlab.replays.explain import Explanation
from gradlab.replays.standard import NAMES, attempts
from gradlab.runs.reader import Run
from gradlab.studies.news import RunUpdate
from gradlab.training.checkpoint import LEAD, found, read, step_of
from gradlab.training.loop import train


@pytest.fixture(scope="module")
def broken(corpus_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    torch.set_num_threads(1)
    return train(planted(config_of(corpus_file)), tmp_path_factory.mktemp("runs") / "run")


def test_what_removes_the_break_is_counted_and_a_stopped_one_goes_on(
    broken: Any, tmp_path: Path
) -> None:
    how = {"repetitions": 2, "beyond": 5, "jobs": 2, "out": tmp_path / "why"}
    changes = ["fp32", "half-lr"]

    def stop(news: Any) -> None:
        if isinstance(news, RunUpdate) and news.name == "fp32_0" and news.state == "finished":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gradlab.explain(broken, changes=changes, progress=stop, **how)
    so_far = pd.read_csv(tmp_path / "why" / "explanation.csv").set_index("change")
    assert so_far.loc["unchanged", "repetitions"] == 2
    assert so_far.loc["half-lr", "repetitions"] == 0
    before = (tmp_path / "why" / "trials" / "fp32_0" / "run.json").stat()

    made = gradlab.explain(broken, changes=changes, **how)
    assert made.told == {}
    table = made.table.set_index("change")
    assert table["repetitions"].tolist() == [2, 2, 2]
    assert table["removed"].to_dict() == {"unchanged": 0, "fp32": 2, "half-lr": 0}
    assert table["followed_to"].nunique() == 2, "the unchanged ones further than the changes"
    assert table.loc["half-lr", "broke_first"] == table.loc["half-lr", "broke_last"] == BREAK
    assert (
        made.sentence == f"The break at step {BREAK} is removed by fp32 (2 of 2); not by half-lr."
    )
    assert (tmp_path / "why" / "trials" / "fp32_0" / "run.json").stat() == before
    assert json.loads((tmp_path / "why" / "explanation.json").read_text())["from"] == BREAK - LEAD
    with pytest.raises(GradlabError, match=r"another explanation.*beyond is 5 there and 6 here"):
        gradlab.explain(broken, changes=["fp32"], **(how | {"beyond": 6}))

    # Another change later stands beside those before it.
    made = gradlab.explain(broken, changes=["growth_factor=2"], **how)
    assert made.sentence == (
        f"The break at step {BREAK} is removed by fp32 (2 of 2) and growth_factor=2 (2 of 2); not "
        "by half-lr."
    )
    more = made.table.set_index("change")
    assert more.index.tolist() == [*table.index, "growth_factor=2"]
    pd.testing.assert_frame_equal(more.loc[table.index], table)
    with pytest.raises(GradlabError, match=r"what removes a break, which explanation\.csv"):
        gradlab.load(tmp_path / "why")

    # Each repetition begins at the same step with another weight, and survives long enough.
    trials = {path.name: gradlab.load(path) for path in (tmp_path / "why" / "trials").iterdir()}
    first = {name: run.table("steps").iloc[0] for name, run in trials.items()}
    assert {row["step"] for row in first.values()} == {BREAK - LEAD}
    losses = [trials[f"unchanged_{n}"].table("steps")["loss"].tolist() for n in range(2)]
    assert losses[0] != losses[1]
    assert trials["fp32_0"].table("steps")["step"].max() == LEFT_AT + 5
    (start,) = found(tmp_path / "why")
    assert read(start).facts["step"] == BREAK - LEAD


@pytest.mark.long
def test_the_architecture_trains_again_from_the_start(broken: Any, tmp_path: Path) -> None:
    made = gradlab.explain(
        broken, changes=["qkv_norm=true"], repetitions=1, beyond=0, jobs=1, out=tmp_path / "why"
    )
    row = made.table.set_index("change").loc["qkv_norm=true"]
    assert row["what"] == "qkv_norm True, from step 0"
    run = gradlab.load(tmp_path / "why" / "trials" / "qkv_norm=true_0")
    assert run.config.model.qkv_norm
    assert run.table("steps")["step"].iloc[0] == 0


def test_the_standard_changes_each_change_something(broken: Any) -> None:
    config = broken.config
    tried = attempts(config, 2.0**16, [])
    assert [one.name for one in tried] == list(NAMES)
    for one in tried:
        assert one.changes.skip_batch or one.changes.config(config) != config
    assert tried[2].changes.settings == {"initial_loss_scale": 2.0**8}
    plain = config.replace(
        precision=PrecisionConfig(name="fp32"),
        optimizer=OptimizerConfig(weight_decay=0.0, clip_norm=1.0),
        model=config.model.replace(attention="sdpa"),
    )
    left_out = {"fp32", "loss-scale", "no-weight-decay", "sdpa"}
    changes = {one.name: one.changes for one in attempts(plain, 1.0, [])}
    assert set(NAMES) - set(changes) == left_out
    assert changes["clipping"].settings == {"clip_norm": 0.1}
    assert changes["weight-decay"].settings == {"weight_decay": 0.1}


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"changes": ["fp31"]}, "unknown change 'fp31': did you mean 'fp32'"),
        ({"changes": ["epsilon=1"]}, "did you mean 'eps'|epsilon"),
        ({"changes": ["eps=-1"]}, "eps"),
        ({"changes": ["qkv_norm=true,eps=1"]}, "changed alone"),
        ({"changes": ["qkv_norm=perhaps"]}, "qkv_norm"),
        ({"repetitions": 0}, "repetitions = 0"),
        ({"beyond": -1}, "beyond = -1"),
        ({"jobs": 0}, "jobs = 0"),
        ({"from_step": BREAK + 1}, "broke at step"),
    ],
)
def test_mistakes_are_refused_before_anything_is_made(
    broken: Any, tmp_path: Path, how: dict[str, Any], says: str
) -> None:
    with pytest.raises(GradlabError, match=says):
        gradlab.explain(broken, out=tmp_path / "why", **how)
    assert not (tmp_path / "why").exists()


def test_what_cannot_be_explained_is_refused(broken: Any, make_config: Any, tmp_path: Path) -> None:
    whole = train(make_config(steps=2), tmp_path / "whole")
    with pytest.raises(GradlabError, match="did not break"):
        gradlab.explain(whole)
    with pytest.raises(GradlabError, match="nothing to explain"):
        gradlab.explain(whole, from_step=1)
    with pytest.raises(ConfigError, match="changes nothing of this run"):
        attempts(whole.config.replace(precision=PrecisionConfig(name="fp32")), 1.0, ["fp32"])
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("mine")
    with pytest.raises(GradlabError, match="holds something else"):
        gradlab.explain(broken, out=tmp_path / "other")


def row(change: str, removed: int, of: int) -> dict[str, Any]:
    rest = {"what": "", "broke_first": None, "broke_last": None}
    return {"change": change, "repetitions": of, "removed": removed, **rest}


def test_changes_that_were_followed_less_far_are_named(broken: Any) -> None:
    rows = [row("unchanged", 0, 5), row("a", 5, 5), row("b", 5, 5), row("c", 0, 5)]
    far = dict(zip("abc", (70, 90, None), strict=True))  # c is of an earlier version

    def told(far: dict[str, int | None]) -> str:
        known = [{**one, "followed_to": far.get(one["change"])} for one in rows]
        made = Explanation(Path("why"), broken, 10, 50, known)
        assert made.table["followed_to"].tolist()[1:3] == [far["a"], far["b"]]
        return made.sentence

    assert told(far).endswith(
        "not by c. Followed less far than the others, to step 90: a to step 70."
    )
    assert "Followed" not in told({"a": 90, "b": 90})


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([], "is not known yet"),
        ([row("unchanged", 0, 5)], "no change has been tried to its end"),
        (
            [row("unchanged", 0, 5), row("a", 0, 5), row("b", 0, 5)],
            f"The break at step {BREAK} is removed by none of the changes.",
        ),
        (
            [row("unchanged", 1, 5), row("a", 5, 5), row("b", 1, 5), row("c", 0, 5)],
            f"The break at step {BREAK} is removed by a (5 of 5); sometimes by b (1 of 5); not by "
            "c; unchanged it came in 4 of 5 alone.",
        ),
    ],
)
def test_the_sentence_says_what_the_counts_do(
    broken: Any, rows: list[dict[str, Any]], says: str
) -> None:
    made = Explanation(Path("why"), broken, 10, 50, rows)
    assert says in made.sentence
    assert len(made.table) == len(rows)


def test_steps_made_again_from_the_start_are_told(broken: Run) -> None:
    rows = [row("unchanged", 0, 5), row("a", 5, 5)]
    assert broken.path is not None
    kept = min(map(step_of, found(broken.path)))

    def told(first: int, rows: list[dict[str, Any]], run: Run = broken) -> bool:
        return "made again from step 0" in Explanation(Path("why"), run, first, 50, rows).sentence

    assert [told(first, rows) for first in (0, 1, kept - 1, kept, kept + 1)] == [
        False,  # which it begins at anyway
        True,
        True,
        False,
        False,
    ]
    assert told(1, [])
