from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gradlab.cli.main import app


def run_command(*words: object) -> Any:
    return CliRunner().invoke(app, ["blocks", *map(str, words)])


@pytest.mark.parametrize(
    ("ending", "start"), [("svg", b"<?xml"), ("pdf", b"%PDF"), ("png", b"\x89PNG")]
)
def test_the_ending_says_which_picture(tmp_path: Path, ending: str, start: bytes) -> None:
    out = tmp_path / "new" / f"blocks.{ending}"
    result = run_command("--arch", "pre-ln", "--size", "nano", "--out", out)
    assert result.exit_code == 0
    assert out.read_bytes().startswith(start)


def test_switches_are_drawn(tmp_path: Path) -> None:
    plain, mine = tmp_path / "plain.svg", tmp_path / "mine.svg"
    run_command("--arch", "pre-ln", "--out", plain)
    result = run_command("--arch", "pre-ln", "--attn-out-norm", "--norm", "rmsnorm", "--out", mine)
    assert result.exit_code == 0
    # The text is paths, beside which a comment says what it is.
    assert "<!-- RMSNorm -->" not in plain.read_text()
    assert mine.read_text().count("<!-- RMSNorm -->") == 4
    assert "<!-- added to the plain block -->" in mine.read_text()


def test_attention_of_a_masked_model_goes_both_ways(tmp_path: Path) -> None:
    causal, masked = tmp_path / "causal.svg", tmp_path / "masked.svg"
    words = ["--arch", "pre-ln", "--size", "nano"]
    assert run_command(*words, "--out", causal).exit_code == 0
    assert run_command(*words, "--objective", "masked", "--out", masked).exit_code == 0
    assert "<!-- 4 heads -->" in causal.read_text()
    assert "<!-- 4 heads, both ways -->" in masked.read_text()


def test_what_cannot_be_drawn_is_one_sentence(tmp_path: Path) -> None:
    out = tmp_path / "blocks.svg"
    out.write_text("mine")
    for words in (
        ["--out", out],
        ["--out", tmp_path / "blocks.gif"],
        ["--arch", "pre-nl", "--out", tmp_path / "b.svg"],
        ["--norm", "batch", "--out", tmp_path / "b.svg"],
    ):
        result = run_command(*words)
        assert result.exit_code == 2
        assert len(result.stderr.strip().splitlines()) == 1
    assert out.read_text() == "mine"
    assert run_command("--arch", "pre-ln", "--out", out, "--force").exit_code == 0
