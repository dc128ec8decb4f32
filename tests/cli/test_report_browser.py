"""The report in a real browser."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium import CONTRASTS, WITH_A_BROWSER, Browser
from typer.testing import CliRunner

from gradlab.cli.main import app
from gradlab.config import OptimizerConfig, ScheduleConfig

pytestmark = WITH_A_BROWSER


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, write_run: Callable[..., Path]) -> Path:
    tmp_path = tmp_path_factory.mktemp("report")
    folders = [
        write_run(tmp_path / "study" / f"nano_{arch}_with_quite_a_long_name_{seed}", arch, seed)
        for arch in ("pre-ln", "normformer", "normformer-resscale")
        for seed in range(2)
    ]
    trained: dict[str, Any] = {"schedule": ScheduleConfig(lr=1e-3), "steps": 8}
    trained |= {"tables": ("grad_norms",), "reason": "completed"}
    folders += [
        write_run(tmp_path / f"trained_{arch}", arch, **trained) for arch in ("pre-ln", "post-ln")
    ]
    heavy = OptimizerConfig(weight_decay=0.1)
    folders.append(write_run(tmp_path / "heavy", optimizer=heavy))
    folders.append(write_run(tmp_path / "<b>&amp;", reason=None, loss=float("nan")))
    out = tmp_path / "report.html"
    words = ["report", *map(str, folders), str(tmp_path / "nowhere"), "--out", str(out)]
    assert CliRunner().invoke(app, words).exit_code == 0
    return out


FEW = [(390, "dark"), (1000, "light"), (1400, "dark")]
LOOKS = [
    pytest.param(width, scheme, marks=[] if (width, scheme) in FEW else pytest.mark.long)
    for width in (390, 1000, 1400)
    for scheme in ("light", "dark")
]


@pytest.mark.parametrize(("width", "scheme"), LOOKS)
def test_it_is_readable_at_any_width_and_in_the_dark(
    browser: Browser, page: Path, width: int, scheme: str
) -> None:
    browser.open(page, width=width, scheme=scheme)
    assert browser.evaluate("window.innerWidth") == width
    # Nothing is wider than the screen: tables and figures scroll within themselves.
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    contrast, where = browser.evaluate(CONTRASTS)
    assert contrast >= 4.5, where
    brightness = float(np.median(browser.picture()))
    assert brightness < 0.2 if scheme == "dark" else brightness > 0.9


@pytest.mark.parametrize("width", [390, 1280])
def test_figures_are_shown_on_white(browser: Browser, page: Path, width: int) -> None:
    browser.open(page, width=width, scheme="dark")
    boxes = browser.evaluate(
        """[...document.querySelectorAll("figure svg")].map((svg) => {
          const box = svg.getBoundingClientRect(), card = svg.closest(".paper");
          return [box.width, box.height, card.getBoundingClientRect().width,
                  getComputedStyle(card).backgroundColor];
        })"""
    )
    assert len(boxes) >= 4
    for wide, high, card, color in boxes:
        assert wide > 200
        assert high > 60
        assert wide < card <= width  # whole
        assert color == "rgb(255, 255, 255)"
    browser.evaluate("document.querySelector('figure').scrollIntoView()")
    colors = (browser.picture() * 15).astype(int) @ [256, 16, 1]
    assert len(np.unique(colors)) > 8


def test_on_a_phone_a_figure_can_be_had_at_full_size(browser: Browser, page: Path) -> None:
    browser.open(page, width=390, scheme="light")
    width = "Math.max(...[...document.querySelectorAll('figure svg')].map((s) => s.clientWidth))"
    assert browser.evaluate(width) < 390
    browser.evaluate("document.querySelectorAll('.full input').forEach((box) => box.click())")
    assert browser.evaluate(width) > 600
    assert browser.evaluate("document.documentElement.scrollWidth") <= 390


def test_nothing_is_fetched_and_nothing_complains(browser: Browser, page: Path) -> None:
    browser.open(page, width=1280, scheme="light")
    asked = {request["request"]["url"] for request in browser.said("Network.requestWillBeSent")}
    assert {url for url in asked if not url.startswith("data:image/png")} == {page.as_uri()}
    # The colours of figure 7's scale are an image within the page.
    assert browser.evaluate("document.querySelectorAll('svg image').length") >= 1
    assert not browser.said("Runtime.exceptionThrown")
    assert not browser.said("Runtime.consoleAPICalled")
    assert not browser.said("Log.entryAdded")


def column(browser: Browser, heading: str) -> list[str]:
    found: list[str] = browser.evaluate(
        f"""(() => {{
          const table = document.querySelector("table.sortable");
          const heads = [...table.tHead.rows[0].cells].map((cell) => cell.textContent);
          const place = heads.indexOf({json.dumps(heading)});
          return [...table.tBodies[0].rows].map((row) => row.cells[place].textContent);
        }})()"""
    )
    return found


def click(browser: Browser, heading: str) -> str:
    found: str = browser.evaluate(
        f"""(() => {{
          const table = document.querySelector("table.sortable");
          const heads = [...table.tHead.rows[0].cells];
          const head = heads.find((cell) => cell.textContent === {json.dumps(heading)});
          head.querySelector("button").click();
          return head.getAttribute("aria-sort");
        }})()"""
    )
    return found


def test_a_heading_sorts_numbers_as_numbers_with_missing_ones_last(
    browser: Browser, page: Path
) -> None:
    browser.open(page, width=1280, scheme="light")
    before = column(browser, "LR there")
    assert click(browser, "LR there") == "ascending"
    up = column(browser, "LR there")
    assert click(browser, "LR there") == "descending"
    down = column(browser, "LR there")
    numbers = sorted(float(cell) for cell in before if cell != "–")
    assert [float(cell) for cell in up[:-1]] == numbers
    assert [float(cell) for cell in down[:-1]] == numbers[::-1]
    assert up[-1] == down[-1] == "–"
    click(browser, "run")
    names = column(browser, "run")
    assert len(names) == 10
    assert "<b>&amp;" in names


@pytest.mark.parametrize("width", [1000, 1400])
def test_the_table_of_the_runs_is_seen_whole(browser: Browser, page: Path, width: int) -> None:
    browser.open(page, width=width, scheme="light")
    inside, outside = browser.evaluate(
        """(() => { const box = document.querySelector("#runs > .scroll");
                    return [box.scrollWidth, box.clientWidth]; })()"""
    )
    assert inside <= outside


def test_a_name_opens_the_section_of_its_run(browser: Browser, page: Path) -> None:
    browser.open(page, width=1000, scheme="light")
    shown = "document.getElementById('run3').checkVisibility()"
    assert not browser.evaluate(shown)
    browser.evaluate("""document.querySelector("a[href='#run3']").click()""")
    assert browser.evaluate(shown)


def test_what_is_alike_is_folded(browser: Browser, page: Path) -> None:
    browser.open(page, width=1280, scheme="light")
    count = """[...document.querySelectorAll(".settings tbody tr")]
               .filter((row) => row.checkVisibility()).length"""
    some = browser.evaluate(count)
    browser.evaluate("document.querySelector('#settings summary').click()")
    assert 1 < some < browser.evaluate(count)


def test_names_are_text(browser: Browser, page: Path) -> None:
    browser.open(page, width=390, scheme="light")
    assert browser.evaluate("document.querySelectorAll('main b').length") == 0
