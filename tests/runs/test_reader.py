import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import gradlab
from gradlab.config import RunConfig
from gradlab.errors import ConfigError, GradlabError
from gradlab.runs.memory import MemoryWriter
from gradlab.runs.schema import SCHEMA_VERSION
from gradlab.runs.verdict import NOT_LOOKED_AT, Reason, Verdict
from gradlab.runs.writer import RunWriter

Rows = Callable[..., dict[str, list[Any]]]

HEADROOM = {
    "step": [0, 0],
    "site": ["embed", "blocks.1.attention.scores"],
    "layer": [None, 1],
    "op": [None, "scores"],
    "direction": ["forward", "backward"],
    "dtype": ["float16", "float32"],
    "max_abs": [2.0, 70000.0],
    "headroom_bits": [float("-inf"), -0.1],
    "underflow_frac": [0.0, None],
    "nonfinite": [3, 0],
}


@pytest.fixture
def path(tmp_path: Path, config: RunConfig, steps: Rows) -> Path:
    writer = RunWriter(tmp_path / "study" / "run", config)
    for start in range(0, 36, 3):  # more than ten parts, to be read in order
        writer.write("steps", steps(start, start + 3))
    writer.write("headroom", HEADROOM)
    writer.finish("finished", Verdict(reason="loss_rise", step=35, lr=0.007))
    return writer.path


def edit(path: Path, **changes: Any) -> None:
    file = path / "run.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.mark.parametrize(
    ("tables", "reason", "said"),
    [
        (["steps"], "loss_nonfinite", NOT_LOOKED_AT),
        (["steps"], "completed", None),
        (["steps", "overflows"], "loss_nonfinite", None),
    ],
)
def test_a_break_without_headroom_is_one_whose_overflow_nobody_looked_for(
    path: Path, tables: list[str], reason: Reason, said: str | None
) -> None:
    """As in the folders of before, which said that nothing had overflowed."""
    edit(path, tables=tables, verdict=Verdict(reason=reason, step=1).model_dump(mode="json"))
    run = gradlab.load(path)
    assert run.verdict is not None
    assert run.verdict.first_overflow == said


def test_a_run_comes_back(path: Path, config: RunConfig, steps: Rows) -> None:
    run = gradlab.load(path)
    assert run.config == config
    assert run.status == "finished"
    assert run.verdict == Verdict(reason="loss_rise", step=35, lr=0.007)
    assert run.tables == ("steps", "headroom", "overflows", "faults")
    table = run.table("steps")
    for name, values in steps(0, 36).items():
        if name == "val_loss":
            assert table[name].isna().all()
        else:
            assert table[name].tolist() == values
    assert gradlab.load(str(path / "run.json")).config == config


@pytest.mark.parametrize("columns", [None, ["max_abs"]])
def test_rows_written_late_are_read_in_the_order_of_their_steps(
    tmp_path: Path, config: RunConfig, columns: list[str] | None
) -> None:
    # As those of the steps that led to an overflow are, behind later ones of the cadence.
    writer = RunWriter(tmp_path / "run", config)
    written = [(0, 0.0), (10, 1.0), (8, 2.0), (9, 3.0), (10, 4.0), (9, 5.0)]
    for start in (0, 3):
        rows = written[start : start + 3]
        both = {name: values[:1] * len(rows) for name, values in HEADROOM.items()}
        times, sizes = zip(*rows, strict=True)
        writer.write("headroom", {**both, "step": times, "max_abs": sizes})
    writer.finish("finished")
    table = gradlab.load(writer.path).table("headroom", columns)
    assert table["max_abs"].tolist() == [0.0, 2.0, 3.0, 5.0, 1.0, 4.0]


def test_types_do_not_depend_on_the_data(path: Path) -> None:
    run = gradlab.load(path)
    full = run.table("headroom")
    assert full["layer"].dtype == pd.Int64Dtype()
    assert full["layer"].tolist() == [pd.NA, 1]
    assert full["headroom_bits"].tolist() == [-np.inf, -0.1]
    empty = run.table("overflows")
    assert empty.empty
    assert "producer" in empty.columns
    assert empty["layer"].dtype == pd.Int64Dtype()
    assert empty["skipped"].dtype == bool
    assert run.table("steps")["val_loss"].dtype == float


def test_columns_are_chosen_in_the_order_asked_for(path: Path) -> None:
    run = gradlab.load(path)
    assert list(run.table("steps", ["loss", "step"])) == ["loss", "step"]
    assert list(run.table("overflows", ["site"])) == ["site"]
    with pytest.raises(GradlabError, match="unknown column of steps 'los': did you mean 'loss'"):
        run.table("steps", ["los"])


def test_a_table_that_was_not_recorded_is_an_error_that_says_which_were(path: Path) -> None:
    run = gradlab.load(path)
    with pytest.raises(
        GradlabError, match=r"did not record grad_norms, only steps, headroom, overflows"
    ):
        run.table("grad_norms")
    with pytest.raises(GradlabError, match="unknown table 'head_room': did you mean 'headroom'"):
        run.table("head_room")


def test_a_table_with_rows_counts_as_recorded_without_being_declared(
    tmp_path: Path, config: RunConfig
) -> None:
    writer = RunWriter(tmp_path, config, {"tables": ["steps"]})
    assert writer.run().tables == ("steps",)
    writer.write("headroom", HEADROOM)
    assert writer.run().tables == ("steps", "headroom")


def test_it_says_itself_on_one_line(path: Path, tmp_path: Path, config: RunConfig) -> None:
    text = repr(gradlab.load(path))
    assert "\n" not in text
    for word in ("normformer", "nano", "seed 2", "loss_rise at step 35", "0.007", str(path)):
        assert word in text
    running = RunWriter(tmp_path / "other", config).run()
    assert "running" in repr(running)


def test_a_writers_temporary_files_are_not_read(path: Path) -> None:
    (path / "steps" / ".part-000099.parquet.77.tmp").write_bytes(b"PAR1 half")
    (path / ".run.json.77.tmp").write_bytes(b'{"schema')
    assert len(gradlab.load(path).table("steps")) == 36


@pytest.mark.parametrize("keep", [0, 4, 200, -1])
def test_a_truncated_part_is_named(path: Path, keep: int) -> None:
    (part,) = (path / "steps").glob("part-000011.*")
    part.write_bytes(part.read_bytes()[:keep])
    run = gradlab.load(path)
    with pytest.raises(GradlabError, match=r"part-000011\..* is damaged .* move it away"):
        run.table("steps")
    assert len(run.table("headroom")) == 2
    part.unlink()
    assert len(run.table("steps")) == 33


def test_a_part_of_another_table_is_named(path: Path) -> None:
    (part,) = (path / "steps").glob("part-000011.*")
    part.unlink()
    part = part.with_name("part-000011.parquet")  # a run that was recorded before digests
    (other,) = (path / "headroom").iterdir()
    part.write_bytes(other.read_bytes())
    with pytest.raises(GradlabError, match=r"part-000011\.parquet is damaged"):
        gradlab.load(path).table("steps")


def test_a_folder_without_a_run_is_one_sentence(path: Path, tmp_path: Path) -> None:
    with pytest.raises(GradlabError, match=r"there is no run .*none: the folder does not exist"):
        gradlab.load(tmp_path / "none")
    with pytest.raises(GradlabError, match=r"it has no run\.json"):
        gradlab.load(path / "steps")
    with pytest.raises(GradlabError, match="is not one run but holds 1: name one of them") as found:
        gradlab.load(path.parent)
    assert str(found.value).endswith(f", as {path}.")
    with pytest.raises(GradlabError, match="there is no run"):
        gradlab.load(path / "run.json" / "deeper")


def test_a_document_that_cannot_be_understood_is_one_sentence(path: Path) -> None:
    file = path / "run.json"
    text = file.read_text()
    for broken in (text[:300], "", "[1]", '"text"', "\udcff"):
        file.write_bytes(broken.encode("utf-8", "surrogateescape"))
        with pytest.raises(GradlabError, match=r"run\.json is damaged"):
            gradlab.load(path)
    for foreign in ("{}", '{"schema_version": 1}'):
        file.write_text(foreign)
        with pytest.raises(GradlabError, match=r"run\.json: .*(no schema_version|needs status)"):
            gradlab.load(path)


def test_a_newer_format_is_refused_with_what_to_do(path: Path) -> None:
    edit(path, schema_version=SCHEMA_VERSION + 1)
    with pytest.raises(GradlabError, match=r"run\.json: written by a newer gradlab .*: update"):
        gradlab.load(path)


def test_an_unknown_key_in_the_config_names_the_file(path: Path) -> None:
    config = json.loads((path / "run.json").read_text())["config"]
    edit(path, config={**config, "sede": 1})
    with pytest.raises(ConfigError, match=r"run\.json: unknown key of RunConfig 'sede'.*'seed'"):
        gradlab.load(path)


def test_reading_needs_no_torch(path: Path) -> None:
    program = """
import sys, gradlab
run = gradlab.load(sys.argv[1])
assert "pandas" not in sys.modules, "loading alone needs no pandas"
print(len(run.table("steps")), "torch" in sys.modules, "matplotlib" in sys.modules)
"""
    result = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == ["36", "False", "False"]


@pytest.mark.parametrize("folder", [True, False])
@pytest.mark.parametrize("between", [(0, 3), (4, 4), (5, 100), (3, 11), (50, 60)])
def test_rows_between_two_steps(
    tmp_path: Path, config: RunConfig, steps: Rows, folder: bool, between: tuple[int, int]
) -> None:
    writer = RunWriter(tmp_path / "run", config) if folder else MemoryWriter(config)
    for start in range(0, 12, 3):
        writer.write("steps", steps(start, start + 3))
    whole = writer.run().table("steps")
    expected = whole[whole["step"].between(*between)].reset_index(drop=True)
    pd.testing.assert_frame_equal(writer.run().table("steps", between=between), expected)
    losses = writer.run().table("steps", ["loss"], between=between)
    pd.testing.assert_frame_equal(losses, expected[["loss"]])
    with pytest.raises(GradlabError, match="name the first step to read, then the last"):
        writer.run().table("steps", between=(between[1] + 1, between[0]))


def test_a_notebook_shows_what_the_run_is_and_how_it_ended(
    tmp_path: Path, config: RunConfig
) -> None:
    writer = RunWriter(tmp_path / "<run>", config.replace(arch="<b>&"))
    writer.finish("finished", Verdict(reason="loss_rise", step=7, lr=1.4e-3, detected_step=8))
    shown = writer.run()._repr_html_()
    for text in ("&lt;b&gt;&amp;, nano, fp32, seed 2", "finished: loss_rise", "step 7, lr 0.0014"):
        assert text in shown
    assert "<b>" not in shown
    assert "&lt;run&gt;" in shown
