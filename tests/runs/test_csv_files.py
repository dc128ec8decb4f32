import csv
import math
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradlab.runs.csv_files import guarded, read_csv, unguarded, write_csv, write_rows

FORMULAS = ["a\r=1", "=1+1", "@SUM(1)", "+1+1", "-2+3", "\t=1", "\r=1", "\n=1", "  =1+1", "-"]
NUMBERS = ["-0.5", "+1e3", "-inf", "0.1"]
PLAIN = ["pre-ln", "blocks.0.attention.scores", "", "a=b", "'s", "'"]


def is_formula(cell: str) -> bool:
    """What a spreadsheet may run: a first character of these, unless the cell is a number."""
    return cell.lstrip(" ")[:1] in ("=", "+", "-", "@", "\t", "\r", "\n") and cell not in NUMBERS


@pytest.mark.parametrize("text", FORMULAS)
def test_no_cell_of_a_file_is_a_formula(tmp_path: Path, text: str) -> None:
    table = pd.DataFrame({"arch": [text, "pre-ln"], "lr": [-0.5, math.nan], "seed": [-1, 2]})
    write_csv(tmp_path / "table.csv", table)
    write_rows(tmp_path / "rows.csv", list(table), table.to_dict("records"))
    for file in ("table.csv", "rows.csv"):
        with (tmp_path / file).open(newline="") as lines:
            _, first, _ = csv.reader(lines)
        assert not is_formula(first[0])
        assert unguarded(first[0]) == text.replace("\r", "␍")
        assert [float(number) for number in first[1:]] == [-0.5, -1]


@pytest.mark.parametrize("cell", [*NUMBERS, *PLAIN, -0.5, None])
def test_other_cells_are_as_they_were(cell: object) -> None:
    assert guarded(cell) == unguarded(cell) == cell


@given(st.text())
def test_what_is_guarded_comes_back(text: str) -> None:
    assert unguarded(guarded(text)) == text.replace("\r", "␍") or guarded(text) == text
    assert not (guarded(text) != text and is_formula(guarded(text)))


def test_categories_and_missing_words_are_kept(tmp_path: Path) -> None:
    table = pd.DataFrame({"arch": pd.Categorical(["=a", "b", None]), "lr": pd.array([1, None, 3])})
    write_csv(tmp_path / "table.csv", table)
    assert (tmp_path / "table.csv").read_text() == "arch,lr\n'=a,1\nb,\n,3\n"


def test_numbers_come_back_to_their_last_digit(tmp_path: Path) -> None:
    table = pd.DataFrame({"loss": [2.0180156230926514, 0.1 + 0.2, 5e-324, -1e308, math.inf]})
    table = pd.concat([table, 1 / (table + 3)], ignore_index=True)
    write_csv(tmp_path / "table.csv", table)
    pd.testing.assert_frame_equal(read_csv(tmp_path / "table.csv"), table, check_exact=True)
