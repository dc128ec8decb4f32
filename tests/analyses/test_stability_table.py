from pathlib import Path

import pandas as pd
import pytest

from gradlab.analyses.stability_table import COLUMNS, check_stability, observations, read_stability
from gradlab.errors import GradlabError

HEADER = ",".join(COLUMNS)
BROKE = "nano,300000,pre-ln,0,0.0002,loss_nonfinite,700,0.14,False,blocks.0.attention.scores,0.05,"
CENSORED = "nano,300000,pre-ln,1,0.0002,completed,3999,0.7998,True,,0.06,"
ERROR = "nano,300000,pre-ln,2,0.0002,error,,,False,,,"


def write(path: Path, *rows: str) -> Path:
    path.write_text("\n".join([HEADER, *rows]) + "\n")
    return path


def test_reads_breaks_censored_and_failed_runs(tmp_path: Path) -> None:
    table = read_stability(write(tmp_path / "stability.csv", BROKE, CENSORED, ERROR))
    assert list(table.columns) == list(COLUMNS)
    assert list(table["censored"]) == [False, True, False]
    assert table["first_overflow"][0] == "blocks.0.attention.scores"
    assert table["first_overflow"].isna().tolist() == [False, True, True]
    assert table["step"].isna().tolist() == [False, False, True]
    assert table["lr"][1] == 0.7998


def test_a_study_folder_serves_too(tmp_path: Path) -> None:
    write(tmp_path / "stability.csv", BROKE)
    assert read_stability(tmp_path).equals(read_stability(tmp_path / "stability.csv"))


def test_a_study_in_which_nothing_broke_reads(tmp_path: Path) -> None:
    table = read_stability(write(tmp_path / "stability.csv", CENSORED))
    assert table["first_overflow"].isna().all()


def test_a_table_without_runs_reads(tmp_path: Path) -> None:
    table = read_stability(write(tmp_path / "stability.csv"))
    assert list(table.columns) == list(COLUMNS)
    assert table.empty


def test_sizes_stay_names(tmp_path: Path) -> None:
    row = BROKE.replace("nano", "125")
    assert read_stability(write(tmp_path / "stability.csv", row))["size"][0] == "125"


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([BROKE, BROKE], "two rows describe one run: pre-ln, size nano, seed 0, lr_step 0.0002"),
        ([BROKE.replace("loss_nonfinite", "melted")], "unknown reason 'melted'"),
        ([BROKE.replace("False", "True")], "'censored' must be true exactly where"),
        ([BROKE.replace("0.14", "high")], "'lr' holds a value that is not float64"),
        ([BROKE.replace("300000", "")], "needs a value of 'params'"),
        ([BROKE.replace("False", "perhaps")], "'censored' holds a value"),
    ],
)
def test_a_table_that_is_wrong_is_refused(tmp_path: Path, rows: list[str], sentence: str) -> None:
    with pytest.raises(GradlabError, match=sentence):
        read_stability(write(tmp_path / "stability.csv", *rows))


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    table = read_stability(write(tmp_path / "stability.csv", BROKE))
    with pytest.raises(GradlabError, match="needs the column 'lr_step'"):
        check_stability(table.drop(columns="lr_step"))


def test_a_missing_or_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GradlabError, match="there is no stability table at"):
        read_stability(tmp_path)
    (tmp_path / "stability.csv").write_text("")
    with pytest.raises(GradlabError, match="is not a stability table"):
        read_stability(tmp_path)


def test_a_collapse_is_exact_even_in_a_censored_run(tmp_path: Path) -> None:
    seen = CENSORED.replace("1,0.0002", "2,0.0002") + "0.3"
    rows = [BROKE, BROKE.replace("pre-ln,0", "pre-ln,4") + "0.1", CENSORED, seen]
    table = read_stability(write(tmp_path / "stability.csv", *rows))
    found = observations(table, "lr_collapse").set_index("seed")
    expected = pd.DataFrame(
        {"value": [0.1, 0.7998, 0.3], "bound": [False, True, False]}, index=[4, 1, 2]
    )
    assert found["value"].to_dict() == expected["value"].to_dict()
    assert found["bound"].to_dict() == expected["bound"].to_dict()


def test_lr_and_lr_min_loss_of_a_censored_run_are_bounds(tmp_path: Path) -> None:
    table = read_stability(write(tmp_path / "stability.csv", BROKE, CENSORED, ERROR))
    for value in ("lr", "lr_min_loss"):
        assert observations(table, value)["bound"].tolist() == [False, True]


def test_an_unknown_quantity_is_refused(tmp_path: Path) -> None:
    table = read_stability(write(tmp_path / "stability.csv", BROKE))
    with pytest.raises(GradlabError, match="lr, lr_min_loss, lr_collapse"):
        observations(table, "step")
