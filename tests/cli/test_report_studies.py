"""What a study's command prints stands in the study's report."""

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gradlab.cli.main import app
from gradlab.config import RunConfig

pytestmark = pytest.mark.usefixtures("unrendered")

SMALL = ("--seeds", "2", "--steps", "6", "--warmup", "2", "--width", "16", "--max-seq-len", "8")
STUDIES = {
    "lr-search": ("--arch", "pre-ln", "--arch", "normformer", "--lr", "1e-3", "--lr", "1e-2"),
    "ablate": ("--equal", "steps", "--row", "pre-ln", "--row", "normformer"),
    "variants": ("--equal", "steps", "--variant", "base", "--variant", "clip_norm=0.1,lr=0.5x"),
}


class Words(HTMLParser):
    """The words of a page, and its headings."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words, self.headings, self.tag = "", [""], ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("h2", "h3"):
            self.headings.append("")
        self.tag = self.tag if tag == "wbr" else tag

    def handle_endtag(self, tag: str) -> None:
        self.tag = ""

    def handle_data(self, data: str) -> None:
        self.words += data
        if self.tag in ("h2", "h3"):
            self.headings[-1] += data


def loss(config: RunConfig) -> float:
    own = 0.1 * (config.arch == "normformer") + 0.001 * config.seed
    return 3.0 + own + 0.01 * len(config.variant) - 10 * (config.schedule.lr or 0)


@pytest.mark.parametrize("name", STUDIES)
def test_what_a_command_prints_stands_on_the_page(
    tmp_path: Path, text: str, fake_jobs: Callable[..., None], name: str
) -> None:
    fake_jobs(loss)
    place = ("--corpus", text, "--device", "cpu", "--out", str(tmp_path / "study"))
    result = CliRunner().invoke(app, [name, *STUDIES[name], *SMALL, *place])
    assert result.exit_code == 0, result.output
    out = tmp_path / "report.html"
    assert (
        CliRunner().invoke(app, ["report", str(tmp_path / "study"), "--out", str(out)]).exit_code
        == 0
    )
    page = Words(out.read_text())
    printed = result.stdout.partition("\nIn /")[0]
    parts = [part for line in printed.splitlines() for part in re.split(r"\s{2,}", line.strip())]
    assert len(parts) > 20
    assert [part for part in parts if part not in page.words] == []
    short = page.headings[: page.headings.index("The runs")]
    assert len(set(short)) == len(short)
    if name == "lr-search":
        assert "Loss against the learning rate" in short
        assert re.search(r"Made of \d of the 8 runs", page.words)
