import math
from pathlib import Path

import pandas as pd
import pytest

from gradlab.analyses.claim import COLUMNS, StudyTables, judge_all
from gradlab.analyses.claim_sets import CLAIMS_FILE, read_claims, side_by_side
from gradlab.analyses.claims import CLAIMS
from gradlab.errors import GradlabError
from gradlab.pages.claims import markdown_table
from gradlab.runs.csv_files import write_csv

BREAKS = pd.DataFrame(
    [
        {"size": "nano", "params": 9, "arch": arch, "seed": seed, "lr_step": 2e-4, "step": 5}
        | {"reason": "loss_rise", "lr": lr + seed * lr / 100, "censored": False}
        | {"first_overflow": None, "lr_min_loss": 0.01, "lr_collapse": None}
        for seed in range(3)
        for arch, lr in (("pre-ln", 1.0), ("normformer", 2.0 + seed), ("normformer-resscale", 1.0))
    ]
)


def judged(size: str) -> pd.DataFrame:
    return judge_all(
        CLAIMS,
        {
            "stability": StudyTables(size, {"stability": BREAKS}),
            "ablation": StudyTables("", missing="0 of 21 runs so far"),
        },
    )


def test_claims_are_read_as_they_were_written(tmp_path: Path) -> None:
    table = judged("nano")
    write_csv(tmp_path / CLAIMS_FILE, table)
    read = read_claims(tmp_path)
    pd.testing.assert_frame_equal(read, table, check_dtype=False)
    assert math.isinf(read["below"].iloc[0])
    assert markdown_table(read) == markdown_table(table)


def test_each_set_has_a_column(tmp_path: Path) -> None:
    narrow, wide = judged("nano"), judged("nano-d768")
    wide = wide[wide["claim"] != "lambda-stability"]
    joined = side_by_side([narrow, wide, narrow])
    assert len(joined) == 2 * len(narrow) + len(wide)
    headings, _, *rows = (line.split(" | ") for line in markdown_table(joined).splitlines())
    assert headings[2:5] == ["nano", "nano-d768", "nano (2)"]
    assert len(rows) == len(narrow)
    for claim, row in zip(narrow.to_dict("records"), rows, strict=True):
        assert row[0] == f"| {claim['says']}"
        assert row[2] == row[4]
        assert row[3] == ("–" if claim["claim"] == "lambda-stability" else row[2])
    assert rows[0][2].startswith("**seen** ")
    assert rows[0][2].endswith(", 3 seeds")
    assert rows[-1][2] == "0 of 21 runs so far"


@pytest.mark.parametrize(
    "text", ["", "claim,says\n1,2\n", "\x00", ",".join(COLUMNS) + "\n" + "x," * 12]
)
def test_what_is_no_table_of_claims_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(GradlabError, match="gradlab claims --out"):
        read_claims(tmp_path)
    (tmp_path / CLAIMS_FILE).write_text(text)
    with pytest.raises(GradlabError, match=CLAIMS_FILE):
        read_claims(tmp_path)
