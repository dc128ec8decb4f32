"""Parts of a table: damage, loss and merging, on a disk and in memory."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

import gradlab
from gradlab.config import RunConfig
from gradlab.errors import GradlabError, GradlabWarning
from gradlab.runs.files import write_whole
from gradlab.runs.memory import MemoryWriter
from gradlab.runs.parts import Part, gaps, that_count
from gradlab.runs.writer import RunWriter

Rows = Callable[..., dict[str, list[Any]]]


@pytest.fixture
def run(tmp_path: Path, config: RunConfig, steps: Rows) -> Path:
    """26 steps in four parts: ten writes merged, and three after them."""
    writer = RunWriter(tmp_path / "run", config, {"tables": ["steps"]})
    for start in range(0, 26, 2):
        writer.write("steps", steps(start, start + 2))
    writer.finish("finished")
    return tmp_path / "run"


def parts(run: Path) -> list[Path]:
    return sorted((run / "steps").iterdir())


@pytest.mark.parametrize("seed", range(3))
def test_a_changed_byte_is_refused(run: Path, seed: int) -> None:
    numbers = random.Random(seed)
    for part in parts(run):
        content = part.read_bytes()
        for _ in range(8):
            changed = bytearray(content)
            changed[numbers.randrange(len(changed))] ^= 1 << numbers.randrange(8)
            part.write_bytes(changed)
            with pytest.raises(GradlabError, match=f"{part.name} is damaged .* move it away"):
                gradlab.load(run).table("steps")
        part.write_bytes(content)
    assert len(gradlab.load(run).table("steps")) == 26


def test_a_byte_more_or_less_is_refused(run: Path) -> None:
    part = parts(run)[0]
    content = part.read_bytes()
    for changed in (content + b"\0", content[:-1], b""):
        part.write_bytes(changed)
        with pytest.raises(GradlabError, match="is damaged"):
            gradlab.load(run).table("steps", between=(100, 200))


def test_parts_without_a_digest_are_read_as_before(run: Path) -> None:
    for number, part in enumerate(parts(run)[1:], start=10):
        part.rename(part.with_name(f"part-{number:06d}.parquet"))
    assert gradlab.load(run).table("steps")["step"].tolist() == list(range(26))


@pytest.mark.parametrize(
    ("which", "told"),
    [
        (0, "parts are missing, so that rows before step 20 are gone"),
        (1, "a part is missing, so that rows between step 19 and step 22 are gone"),
        (3, "a part is missing, so that rows after step 23 are gone"),
    ],
)
def test_a_missing_part_is_told_and_the_rest_is_read(run: Path, which: int, told: str) -> None:
    lost = parts(run)[which]
    lost.rename(run / lost.name)
    with pytest.warns(GradlabWarning, match=told):
        loaded = gradlab.load(run)
    assert len(loaded.missing) == 1
    gone = pq.read_table(run / lost.name).column("step").to_pylist()
    assert loaded.table("steps")["step"].tolist() == [n for n in range(26) if n not in gone]


def test_a_table_that_is_gone_is_told(run: Path) -> None:
    shutil.rmtree(run / "steps")
    with pytest.warns(GradlabWarning, match="rows of every step are gone"):
        assert gradlab.load(run).table("steps").empty


def test_of_a_run_without_an_end_the_middle_is_told(run: Path) -> None:
    document = json.loads((run / "run.json").read_text())
    del document["writes"]
    (run / "run.json").write_text(json.dumps(document))
    kept = parts(run)
    kept[-1].unlink()
    assert gradlab.load(run).missing == ()
    kept[1].unlink()
    with pytest.warns(GradlabWarning, match="between step 19 and step 22"):
        gradlab.load(run)


def test_gaps_are_those_of_a_set_of_numbers() -> None:
    numbers = random.Random(0)
    for _ in range(200):
        writes = numbers.randrange(1, 30)
        there = sorted(numbers.sample(range(writes), numbers.randrange(writes + 1)))
        found = gaps([Part(n, n, None) for n in there], writes)
        missing = [n for first, last in found for n in range(first, last + 1)]
        assert missing == [n for n in range(writes) if n not in there]


@pytest.mark.parametrize("in_memory", [False, True])
def test_many_writes_stay_few_parts(
    tmp_path: Path, config: RunConfig, steps: Rows, in_memory: bool
) -> None:
    info = {"tables": ["steps"]}
    writer = MemoryWriter(config, info) if in_memory else RunWriter(tmp_path / "run", config, info)
    for step in range(234):
        writer.write("steps", steps(step, step + 1))
        if step % 13 == 0:  # readable all the time
            assert len(writer.run().table("steps")) == step + 1
    loaded = writer.run()
    pd.testing.assert_frame_equal(
        loaded.table("steps")[["step", "loss"]], pd.DataFrame(steps(0, 234))[["step", "loss"]]
    )
    assert loaded.table("steps", ["step"], between=(99, 101))["step"].tolist() == [99, 100, 101]
    if not in_memory:
        assert len(parts(tmp_path / "run")) == 2 + 3 + 4


def test_large_parts_are_left_alone(
    tmp_path: Path, config: RunConfig, steps: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gradlab.runs.writer.LARGEST", 35)
    writer = RunWriter(tmp_path / "run", config, {"tables": ["steps"]})
    for step in range(0, 300, 3):
        writer.write("steps", steps(step, step + 3))
    sizes = [pq.read_metadata(part).num_rows for part in parts(tmp_path / "run")]
    assert sizes == [30] * 10
    assert len(writer.run().table("steps")) == 300


def test_a_kill_within_a_merge_gives_no_row_twice(run: Path, tmp_path: Path, steps: Rows) -> None:
    merged = parts(run)[0]
    table = pq.read_table(merged)
    for number in (3, 7):  # two of its ten have not been removed yet
        pq.write_table(table.slice(2 * number, 2), run / "steps" / f"part-{number:06d}.parquet")
    assert gradlab.load(run).table("steps")["step"].tolist() == list(range(26))
    names = [Part(0, 9, None), Part(3, 3, None), Part(10, 10, None), Part(7, 7, None)]
    assert that_count(names) == [Part(0, 9, None), Part(10, 10, None)]


def test_a_merge_that_fails_costs_nothing(
    tmp_path: Path, config: RunConfig, steps: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse_merged(path: Path, content: bytes) -> None:
        if path.name.count("-") > 1:
            raise GradlabError("there is no space left.")
        write_whole(path, content)

    monkeypatch.setattr("gradlab.runs.parts.write_whole", refuse_merged)
    writer = RunWriter(tmp_path / "run", config, {"tables": ["steps"]})
    for step in range(25):
        writer.write("steps", steps(step, step + 1))
    assert len(parts(tmp_path / "run")) == 25
    monkeypatch.undo()
    for step in range(25, 40):
        writer.write("steps", steps(step, step + 1))
    assert len(parts(tmp_path / "run")) == 20 + 2  # 20 to 29 in one, 30 to 39 in another
    assert writer.run().table("steps")["step"].tolist() == list(range(40))


def test_a_damaged_part_is_never_merged(tmp_path: Path, config: RunConfig, steps: Rows) -> None:
    writer = RunWriter(tmp_path / "run", config, {"tables": ["steps"]})
    for step in range(5):
        writer.write("steps", steps(step, step + 1))
    hurt = parts(tmp_path / "run")[2]
    hurt.write_bytes(hurt.read_bytes()[:-9])
    for step in range(5, 12):
        writer.write("steps", steps(step, step + 1))
    with pytest.raises(GradlabError, match=f"{hurt.name} is damaged"):
        writer.run().table("steps")
    hurt.unlink()
    with pytest.warns(GradlabWarning, match="between step 1 and step 3"):
        assert len(writer.run().table("steps")) == 11
