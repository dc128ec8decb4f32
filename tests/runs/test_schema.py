from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from gradlab.errors import GradlabError
from gradlab.runs.reader import load
from gradlab.runs.schema import TABLES, arrow_table, schema
from gradlab.runs.writer import RunWriter

COLUMNS = {
    "steps": "step update lr loss val_loss loss_scale skipped grad_norm tokens seconds",
    "grad_norms": "step param layer op numel grad_l1 grad_l2 grad_max_abs nonfinite",
    "scales": "step param layer op index value",
    "headroom": "step site layer op direction dtype max_abs headroom_bits underflow_frac nonfinite",
    "overflows": (
        "step order rank site layer op direction kind count numel producer function source "
        "loss_scale skipped"
    ),
    "forecasts": "step site overflow_step",
    "scores": "step site layer head max max_abs bound",
    "hidden": (
        "step site layer mean std input_mean input_std cosine cka first_branch last_branch "
        "mean_shift std_shift"
    ),
    "entropy": "step site layer head entropy",
    "optimizer": "step param layer op param_rms update_rms eps_frac",
    "faults": (
        "step order rank what name layer op direction dtype kind count numel producer function "
        "source"
    ),
}

SCORE = {
    "step": [0],
    "site": ["blocks.0.attention.scores"],
    "layer": [0],
    "head": [1],
    "max": [5.0],
    "max_abs": [6.0],
    "bound": ["exact"],
}


def test_tables_and_columns_are_the_documented_ones() -> None:
    assert {name: " ".join(fields.names) for name, fields in TABLES.items()} == COLUMNS


def test_only_what_may_be_absent_can_be_null() -> None:
    nullable = {f"{table}.{f.name}" for table, s in TABLES.items() for f in s if f.nullable}
    places = {f"{table}.{name}" for table in TABLES for name in ("layer", "op")}
    assert nullable - places == {
        *("steps.lr", "steps.loss", "steps.val_loss", "steps.loss_scale", "steps.grad_norm"),
        *("steps.tokens", "headroom.underflow_frac", "headroom.nonfinite"),
        *("overflows.producer", "overflows.function", "overflows.source"),
        *("overflows.loss_scale", "overflows.rank", "overflows.count"),
        *(f"hidden.{name}" for name in ("cosine", "cka", "first_branch", "last_branch")),
        *("hidden.mean_shift", "hidden.std_shift", "entropy.head"),
        *("scores.head", "scores.max", "scores.max_abs", "optimizer.eps_frac"),
        *(f"faults.{name}" for name in ("order", "direction", "dtype", "count", "numel")),
        *(f"faults.{name}" for name in ("producer", "function", "source")),
    }


@pytest.mark.parametrize("kind", [np.int8, np.int32, np.uint16, np.int64])
def test_arrays_of_other_widths_are_taken(kind: type) -> None:
    rows = arrow_table(
        "scores",
        {
            **SCORE,
            "step": np.array([7], dtype=kind),
            "max": np.array([1.5], dtype=np.float32),
            "max_abs": (3,),
            "layer": [None],
        },
    )
    assert rows.schema == schema("scores")
    assert rows.to_pylist()[0] | {} == {
        **{name: values[0] for name, values in SCORE.items()},
        **{"step": 7, "max": 1.5, "max_abs": 3.0, "layer": None},
    }


def test_inf_and_nan_are_observations() -> None:
    rows = arrow_table("scores", {**SCORE, "max": [float("nan")], "max_abs": [float("inf")]})
    assert rows["max"].null_count == 0
    assert np.isnan(rows["max"][0].as_py())
    assert rows["max_abs"][0].as_py() == float("inf")


def test_no_rows_are_rows() -> None:
    empty = arrow_table("scores", {name: [] for name in SCORE})
    assert empty.num_rows == 0
    assert empty.schema == schema("scores")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"step": [None]}, "every row of scores needs a value of 'step'"),
        ({"step": [0.5]}, r"these are no rows of scores: .*truncated"),
        ({"step": np.array([0.5])}, r"these are no rows of scores: .*truncated"),
        ({"head": ["first"]}, "these are no rows of scores"),
        ({"bound": [1, 2]}, r"these are no rows of scores: .*length"),
        ({"heads": [1]}, "unknown column of scores 'heads': did you mean 'head'"),
    ],
)
def test_what_is_no_row_is_one_sentence(change: dict[str, object], sentence: str) -> None:
    with pytest.raises(GradlabError, match=sentence):
        arrow_table("scores", {**SCORE, **change})


def test_a_missing_column_and_an_unknown_table_are_named() -> None:
    with pytest.raises(GradlabError, match="rows of scores need the column 'bound'"):
        arrow_table("scores", {name: v for name, v in SCORE.items() if name != "bound"})
    with pytest.raises(GradlabError, match="unknown table 'score': did you mean 'scores'"):
        arrow_table("score", SCORE)


def test_every_table_has_the_step_first() -> None:
    for fields in TABLES.values():
        assert fields[0] == pa.field("step", pa.int64(), nullable=False)


def test_a_run_recorded_before_there_was_a_column_is_read_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = TABLES["scores"]
    older = pa.schema([field for field in fields if field.name not in ("head", "max")])
    with monkeypatch.context() as patch:
        patch.setattr("gradlab.runs.schema.TABLES", {**TABLES, "scores": older})
        writer = RunWriter(tmp_path / "run", None, {"tables": ["scores"]})
        writer.write("scores", {name: SCORE[name] for name in older.names})
        writer.finish("finished")
    table = load(tmp_path / "run").table("scores")
    assert list(table.columns) == fields.names
    assert table["head"].isna().all()
    assert table["max"].isna().all()
    assert table["max_abs"].tolist() == SCORE["max_abs"]
