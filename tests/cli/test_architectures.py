"""The page of architectures, held against the names that the commands take."""

import re
import shlex
from itertools import takewhile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gradlab.cli.main import app
from gradlab.models.presets import ARCHITECTURES, model_config

PAGE = (Path(__file__).parents[2] / "docs" / "architectures.md").read_text()


def rows() -> dict[str, list[str]]:
    """Name → the words of its options, in the page's first table."""
    first = takewhile(
        lambda line: line.startswith("|"), PAGE[PAGE.index("| name |") :].splitlines()
    )
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in first]
    return {row[0].strip("`"): shlex.split(row[4].strip("`")) for row in cells[2:]}


def fields(words: list[str]) -> dict[str, object]:
    """Options as fields of a model; one without a value is true."""
    found: dict[str, object] = {}
    for word in words:
        if word.startswith("--"):
            name = word.removeprefix("--").replace("-", "_")
            found[name] = True
        else:
            found[name] = word
    return found


def test_every_name_is_on_the_page_in_order() -> None:
    assert [*rows()] == [*ARCHITECTURES]


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_pages_options_make_the_architecture(arch: str) -> None:
    assert model_config("pre-ln", "nano", **fields(rows()[arch])) == model_config(arch, "nano")


@pytest.mark.usefixtures("unrendered")
def test_each_option_of_the_page_is_one_of_the_commands(tmp_path: Path) -> None:
    switches = PAGE[PAGE.index("## Switches") : PAGE.index("## Where the papers")]
    options = set(re.findall(r"`(--[^`]+)`", switches))
    assert len(options) > 10
    for at, option in enumerate(sorted(options)):
        words = ["blocks", "--arch", "pre-ln", "--out", str(tmp_path / f"{at}.svg")]
        if not option.startswith("--z-loss"):  # which stands in no block
            result = CliRunner().invoke(app, [*words, *shlex.split(option)])
            assert result.exit_code == 0, (option, result.output)


def test_what_makes_no_sense_is_one_sentence(tmp_path: Path) -> None:
    out = str(tmp_path / "b.svg")
    for words in (
        ["--arch", "rezero", "--attn-out-norm"],
        ["--arch", "admin", "--placement", "pre"],
        ["--arch", "pre-ln", "--score-cap", "50", "--attention", "sdpa"],
        ["--arch", "pre-ln", "--n-layers", "0"],
    ):
        result = CliRunner().invoke(app, ["blocks", "--out", out, *words])
        assert result.exit_code == 2
        assert len(result.stderr.strip().splitlines()) == 1
