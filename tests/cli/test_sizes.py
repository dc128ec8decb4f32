# Options of the model are given to these classes where they are made, out of reach of mypy.
# mypy: disable-error-code="call-arg"

import pytest
from typer.testing import CliRunner

from gradlab.cli.commands.sizes import Sizes, cost_cells, memory_text, shape_cells, size_configs
from gradlab.cli.main import app

# FACTS of the paper's Table 2, to the last digit.
PARAMETERS = {
    ("125M", "pre-ln"): "124,377,600",
    ("125M", "normformer"): "124,469,904",
    ("125M", "normformer-resscale"): "124,479,120",
    ("355M", "pre-ln"): "354,740,224",
    ("355M", "normformer"): "354,986,368",
    ("355M", "normformer-resscale"): "355,010,944",
    ("1.3B", "pre-ln"): "1,313,460,224",
    ("1.3B", "normformer"): "1,313,952,512",
    ("1.3B", "normformer-resscale"): "1,314,001,664",
    ("2.7B", "pre-ln"): "2,648,724,480",
    ("2.7B", "normformer"): "2,649,544,704",
    ("2.7B", "normformer-resscale"): "2,649,626,624",
}


def test_parameters_of_the_papers_sizes() -> None:
    rows = {(s, arch): cost_cells(config)[0] for s, arch, config in size_configs(Sizes())}
    assert {key: rows[key] for key in PARAMETERS} == PARAMETERS


def test_the_table_is_whole_in_a_pipe() -> None:
    result = CliRunner().invoke(app, ["sizes"])
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert len(lines) == 1 + 7 + 1 + 7 * 3
    assert all(count in result.stdout for count in PARAMETERS.values())
    shape, pre_ln, *_ = (line.split() for line in lines if line.startswith("nano"))
    assert shape == ["nano", "6", "64", "4", "256", "64"]
    assert pre_ln == ["nano", "pre-ln", "316,416", "2.16e+06", "5.1", "MB", "6.3", "MB"]


def test_the_tables_fit_a_terminal_of_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = CliRunner().invoke(app, ["sizes"]).stdout
    assert "…" not in shown
    assert max(len(line.rstrip()) for line in shown.splitlines()) <= 80


def test_sizes_widths_and_switches_can_be_chosen() -> None:
    options = Sizes(size=["nano"], width=[64, 512], arch=["post-ln"], max_seq_len=128)
    rows = [(size, arch, *shape_cells(config)) for size, arch, config in size_configs(options)]
    assert rows == [
        ("nano", "post-ln", "6", "64", "4", "256", "128"),
        ("nano-d512", "post-ln", "6", "512", "8", "2048", "128"),
    ]


@pytest.mark.parametrize(
    ("size", "text"), [(5_062_656, "5.1 MB"), (999e6, "999.0 MB"), (42.38e9, "42.4 GB")]
)
def test_memory(size: int, text: str) -> None:
    assert memory_text(size) == text
