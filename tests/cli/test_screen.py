import re
from io import StringIO
from typing import Any

import pandas as pd
import pytest
from made_up_runs import nano
from rich.console import Console

from gradlab.analyses.stability_table import COLUMNS
from gradlab.config import RunConfig, ScheduleConfig
from gradlab.pages.inspection import numbers_table
from gradlab.pages.result_tables import (
    mismatch_table,
    rate_tables,
    search_table,
    summary_tables,
)
from gradlab.pages.screen import Screen, Words, on_screen, results_table
from gradlab.pages.table import Table

ARCHITECTURES = ("pre-ln", "normformer", "normformer-resscale", "pre-ln-resscale")


def shown(*tables: Any, width: int = 80) -> str:
    console = Console(width=width, file=StringIO())
    with console.capture() as captured:
        for table in tables:
            console.print(on_screen(table) if isinstance(table, Table) else table)
    return captured.get()


def column(text: str, width: int) -> list[str]:
    table = results_table()
    table.add_column("")
    table.add_row(Words(text))
    return [line.rstrip() for line in shown(table, width=width).splitlines()[1:]]


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("0.14 (0.139 to 0.164)", 30, ["0.14 (0.139 to 0.164)"]),
        ("0.14 (0.139 to 0.164)", 20, ["0.14", "(0.139 to 0.164)"]),
        ("0.14 (0.139 to 0.164), 2 of 3", 19, ["0.14", "(0.139 to 0.164), 2", "of 3"]),
        ("blocks.0.attention.scores (2 of 3)", 26, ["blocks.0.attention.scores", "(2 of 3)"]),
        ("blocks.0.attention.scores", 20, ["blocks.0.attention.", "scores"]),
        ("model.layers.11.mlp", 12, ["model.", "layers.11.", "mlp"]),
        ("normformer-resscale", 12, ["normformer-", "resscale"]),
        ("−0.25", 4, ["−0.2", "5"]),
        ("", 4, [""]),
    ],
)
def test_a_cell_breaks_between_its_words(text: str, width: int, lines: list[str]) -> None:
    assert column(text, width) == lines


def whole(text: str, *expected: str) -> None:
    """Each stands in one line of a text no wider than a terminal."""
    assert max(map(len, text.splitlines())) <= 80
    for words in expected:
        assert words in text


def test_a_stability_study_fits_a_terminal() -> None:
    rows = [
        ("nano", 300_000, arch, seed, 2e-4, "loss_nonfinite", 1, lr, False, site, lr / 3, lr / 2)
        for arch in ARCHITECTURES
        for seed in range(3)
        for lr, site in [(0.1234 + seed / 100, "blocks.11.attention.scores")]
    ]
    text = shown(*summary_tables(pd.DataFrame(rows, columns=list(COLUMNS))))
    whole(text, *ARCHITECTURES, "blocks.11.attention.scores (3 of 3)")
    assert text.count("(0.123 to 0.143)") == text.count("(0.0411 to 0.0478)") == 4


def configs() -> list[RunConfig]:
    return [
        nano(arch, schedule=ScheduleConfig(lr=lr), steps=300)
        for arch in ARCHITECTURES
        for lr in (1e-3, 0.128)
    ]


def test_a_learning_rate_search_fits_a_terminal() -> None:
    spread = {"loss": 2.5, "loss_min": 2.4, "loss_max": 2.6, "runs": 3, "diverged": 1}
    rates = [{"arch": arch, "lr": lr, **spread} for arch in ARCHITECTURES for lr in (1e-3, 0.128)]
    text = shown(*rate_tables(configs(), pd.DataFrame(rates)))
    whole(text, *ARCHITECTURES, "0.128", "1 diverged")
    assert text.count("(2.400 to 2.600)") == 8
    row = {"seeds": 3, "left_out": 0, "best_lr": 0.008, "own_lr_min": 0.004, "own_lr_max": 0.016}
    row |= {f"{name}{end}": 1.2345 for name in ("loss", "sensitivity") for end in ("", "_low")}
    row |= {"loss_high": 1.5, "sensitivity_high": 1.5}
    text = shown(search_table(pd.DataFrame([{"arch": arch, **row} for arch in ARCHITECTURES])))
    whole(text, "pre-ln ", "normformer-", "(0.004 to 0.016)", "95 % intervals")
    assert text.count("(1.234 to 1.500)  (1.234 to 1.500)") == 4


def test_a_study_of_gradients_fits_a_terminal() -> None:
    spread = {"ratio": 2.47, "ratio_min": 2.22, "ratio_max": 2.71, "left_out": 3, "runs": 2}
    spread |= {"slope": -1.234, "slope_min": -1.345, "slope_max": -1.123}
    keys = [(window, arch) for window in ("early", "late") for arch in ARCHITECTURES]
    summary = [{"op": "fc2", "window": window, "arch": arch, **spread} for window, arch in keys]
    windows = pd.DataFrame({"window": ["early", "late"], "first": [100, 250], "last": [149, 299]})
    text = shown(mismatch_table(configs(), windows, pd.DataFrame(summary), op="fc2"))
    whole(text, *ARCHITECTURES, "100–149", "(2.22 to 2.71)")
    assert text.count("(−1.34 to −1.12)") == 8


def test_long_names_break_behind_their_dots() -> None:
    name = "bert.encoder.layer.11.attention.output.LayerNorm.weight"
    numbers = {"step": 12345, "grew": 1.5, "max_abs": 65504.0, "headroom_bits": 1.25, "late": 2.0}
    text = shown(numbers_table(pd.DataFrame([{"param": name, "op": "attn_norm", **numbers}])))
    whole(text, "attn_norm", "65504", "12345")
    first = [line.split("  ")[0].strip() for line in text.splitlines()[1:]]
    assert "".join(first) == name
    assert all(re.fullmatch(r"[\w.]+\.|weight", part) for part in first)


def test_a_caption_is_not_as_narrow_as_its_table() -> None:
    caption = "nano: final validation loss"
    text = shown(Table(("LR",), (), caption))
    assert text.startswith(f"{caption}\n")


def test_no_line_of_a_file_ends_in_blanks() -> None:
    text = StringIO()
    table = results_table()
    for heading in ("site", "bits"):
        table.add_column(heading)
    table.add_row("blocks.0.attention.scores", "3.1")
    table.add_row("embed", "")
    screen = Screen(file=text, width=60)
    screen.print(table)
    screen.print("as  it   is ", end="\n\n")
    lines = text.getvalue().split("\n")
    assert lines == [line.rstrip(" ") for line in lines]
    assert [line.split() for line in lines[:3]] == [
        ["site", "bits"],
        ["blocks.0.attention.scores", "3.1"],
        ["embed"],
    ]
    assert lines[3:] == ["as  it   is", "", ""]
