"""Whether the article's claims are judged by the numbers that they say, and the page has them."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import gradlab
from benchmarks.article.__main__ import SIZES, main
from benchmarks.article.claims import by_seed, difference, perplexity_ratio, ratio
from benchmarks.article.studies import STUDIES
from benchmarks.article.tables import by_layer
from gradlab.analyses.intervals import t_quantile


def runs(*rows: tuple[str, int, float, float]) -> pd.DataFrame:
    """(arch, seed, loss, entropy)."""
    return pd.DataFrame(rows, columns=["arch", "seed", "loss", "entropy"])


DOCS = Path(__file__).parents[2] / "docs"
RECORDED = DOCS / "studies" / "article"

TABLE = runs(
    *(("a", 0, 3.0, 2.0), ("a", 1, 5.0, 2.0), ("a", 2, 9.0, 2.0)),
    *(("b", 1, 4.0, 2.0), ("b", 0, 1.0, 2.0), ("c", 0, math.nan, 2.0)),
)


def test_a_value_is_that_of_the_runs_that_are_meant() -> None:
    assert by_seed(TABLE, "loss - entropy", {"arch": "a"}).to_dict() == {0: 1.0, 1: 3.0, 2: 7.0}
    assert by_seed(TABLE, "loss", {"arch": "b", "seed": 1}).to_dict() == {1: 4.0}
    assert by_seed(TABLE, "loss", {"arch": "d"}).empty


def test_runs_are_compared_seed_by_seed() -> None:
    found = difference(TABLE, "loss", {"arch": "a"}, {"arch": "b"})
    half = t_quantile(1) * np.std([2.0, 1.0], ddof=1) / math.sqrt(2)
    assert (found.number, found.low, found.high, found.seeds) == pytest.approx(
        (1.5, 1.5 - half, 1.5 + half, 2)
    )
    times = ratio(TABLE, "loss", {"arch": "a"}, {"arch": "b"})
    assert times.number == pytest.approx(math.sqrt(3.0 * 1.25))
    assert difference(TABLE, "loss", {"arch": "a"}, {"arch": "c"}).seeds == 0
    losses = TABLE.rename(columns={"loss": "val_loss"})
    higher = perplexity_ratio(losses, {"arch": "a"}, {"arch": "b"})
    assert higher.number == pytest.approx(math.exp(1.5))


def test_the_page_has_what_the_tables_say(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="no table"):
        main(["--folder", str(tmp_path), "--recorded"])
    for table in (RECORDED / f"{name}.csv" for name in SIZES):
        if table.exists():
            (tmp_path / table.name).write_bytes(table.read_bytes())
    main(["--folder", str(tmp_path), "--recorded"])
    printed = capsys.readouterr().out.strip()
    assert len(printed.splitlines()) > 15
    assert printed in (DOCS / "article.md").read_text()
    mine, kept = (pd.read_csv(folder / "claims.csv") for folder in (tmp_path, RECORDED))
    pd.testing.assert_frame_equal(mine, kept)


def test_the_commands_of_the_page_are_the_studies() -> None:
    page = (DOCS / "article.md").read_text().replace("\\\n", " ").splitlines()
    shown = [sorted(line.removeprefix("$ ").split()) for line in page if line.startswith("$ ")]
    for name, study in STUDIES.items():
        made = f"{study.command().line} --out studies/article/{name}"
        assert sorted(made.split()) in shown


def test_a_run_is_told_by_its_tables(tmp_path: Path) -> None:
    """What `depth_scan` has not, against the run's own rows."""
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog. " * 50)
    small = {"width": 16, "batch_size": 2, "depth": 3, "steps": 4, "corpus": str(text)}
    config = STUDIES["depths"].replace(**small, warmup=0, seeds=1).configs()[0]
    run = gradlab.train(config.replace(model=config.model.replace(max_seq_len=8)))
    found = by_layer(run)
    for when, step in (("start", 0), ("end", 3)):
        layers = [row for row in run.table("hidden").to_dict("records") if row["step"] == step]
        (last,) = (row for row in layers if row["layer"] == 2)
        heads = [row for row in run.table("entropy").to_dict("records") if row["step"] == step]
        assert len(heads) == 3 * config.model.n_heads
        assert found[f"std_{when}"] == last["std"]
        assert found[f"branch_{when}"] == last["last_branch"]
        assert found[f"cka_{when}"] == pytest.approx(sum(row["cka"] for row in layers) / 3)
        mean = sum(row["entropy"] for row in heads) / len(heads)
        assert found[f"attention_{when}"] == pytest.approx(mean)
    assert found["vanished"] == 0
