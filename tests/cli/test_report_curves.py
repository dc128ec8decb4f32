"""The curves of a report in a real browser."""

from pathlib import Path

import pytest
from chromium import CONTRASTS, WITH_A_BROWSER, Browser
from made_up_runs import write_rows

import gradlab
from gradlab.runs.writer import RunWriter

pytestmark = WITH_A_BROWSER

BREAKS_OUT = '</script><b>"&amp;'
"""A module's name that would end the script which holds the curves' numbers."""


def write_curves(folder: Path) -> Path:
    """A run of somebody's own loop, whose loss at a step is 100 less the step; broken at none."""
    writer = RunWriter(folder, None, {"model": "theirs", "tables": ["steps", "grad_norms"]})
    steps = list(range(80))
    course = {"step": steps, "lr": 0.1, "loss": [100.0 - step for step in steps]}
    skipped = [step == 40 for step in steps]
    write_rows(writer, "steps", **course, seconds=steps, skipped=skipped)
    step, layer = zip(*[(step, layer) for step in steps for layer in range(2)], strict=True)
    ops, norms = [(BREAKS_OUT, "fc2")[n] for n in layer], [float(s + 1) for s in step]
    place = {"step": step, "param": "w.weight", "layer": layer, "op": ops}
    write_rows(writer, "grad_norms", **place, grad_l2=norms)
    writer.finish("finished")
    return folder


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("curves")
    gradlab.report(write_curves(folder / BREAKS_OUT.replace("/", "_")), out=folder / "report.html")
    return folder / "report.html"


def open_curves(browser: Browser, page: Path, *, width: int = 1000, scheme: str = "light") -> None:
    """The page, scrolled to its curves, which are drawn when they are seen first."""
    browser.open(page, width=width, scheme=scheme)
    browser.evaluate(
        """new Promise((then) => {
          const place = document.querySelector(".curves");
          place.scrollIntoView();
          const look = () => place.querySelector("canvas") ? then() : requestAnimationFrame(look);
          look();
        })""",
    )


def mouse(browser: Browser, *moves: tuple[str, float], panel: int = 0) -> None:
    """Moves and presses in a panel, each at a share of its width."""
    left, top, width, height = browser.evaluate(
        f"""(() => {{ const over = document.querySelectorAll(".curves .u-over")[{panel}];
                     over.scrollIntoView({{ block: "center" }});
                     const box = over.getBoundingClientRect();
                     return [box.left, box.top, box.width, box.height]; }})()"""
    )
    for kind, at in moves:
        where = {"x": left + at * width, "y": top + height / 2}
        pressed = {"button": "left", "clickCount": 1} if kind != "mouseMoved" else {}
        browser.call("Input.dispatchMouseEvent", type=kind, **where, **pressed)


def legends(browser: Browser) -> list[list[str]]:
    """What stands in each panel's legend: a name and a value in turn."""
    found: list[list[str]] = browser.evaluate(
        """[...document.querySelectorAll(".curves .u-legend")].map((legend) =>
             [...legend.querySelectorAll(".u-label, .u-value")].map((one) => one.textContent))"""
    )
    return found


def test_curves_answer_the_pointer_all_at_the_same_step(browser: Browser, page: Path) -> None:
    open_curves(browser, page)
    loss, rate, layers, ops, events = legends(browser)
    assert loss[:3] == ["step", "–", "loss"]
    assert ops[2:5:2] == [BREAKS_OUT, "fc2"]
    for panel in (0, 2):  # whichever plot is pointed at
        mouse(browser, ("mouseMoved", 0.3), ("mouseMoved", 0.25), panel=panel)
        loss, rate, layers, ops, events = legends(browser)
        step = int(loss[1])
        assert 18 <= step <= 22  # a quarter of 80
        assert loss[3] == str(100 - step)
        assert rate[3] == "0.1"
        assert (layers[3], layers[5]) == (str(step + 1), str(step + 1))
        assert events[3] == "at 40"


def test_a_zoom_is_one_of_all_curves(browser: Browser, page: Path) -> None:
    open_curves(browser, page)
    shown = "document.querySelector('.curves output').textContent"
    assert browser.evaluate(shown) == "steps 0 to 79"
    mouse(browser, ("mouseMoved", 0.5), ("mousePressed", 0.5), ("mouseMoved", 0.75))
    mouse(browser, ("mouseReleased", 0.75))
    first, last = map(int, browser.evaluate(shown).removeprefix("steps ").split(" to "))
    assert 38 <= first <= 42
    assert 57 <= last <= 61
    mouse(browser, ("mouseMoved", 0.6), ("mouseMoved", 0.5), panel=3)  # another's middle
    assert 48 <= int(legends(browser)[0][1]) <= 52
    press = (
        "[...document.querySelectorAll('.curves .bar button')].find((one) => one.textContent === "
    )
    browser.evaluate(f"{press}'Whole run').click()")
    assert browser.evaluate(shown) == "steps 0 to 79"
    browser.evaluate(f"{press}'Zoom in').click()")
    assert browser.evaluate(shown) == "steps 20 to 59"


def test_a_line_is_switched_by_its_name(browser: Browser, page: Path) -> None:
    open_curves(browser, page)
    off = "[...document.querySelectorAll('.u-off .u-label')].map((one) => one.textContent)"
    name = (
        """document.querySelectorAll(".curves .u-legend")[2].querySelectorAll(".u-series th")[1]"""
    )
    assert browser.evaluate(off) == []
    browser.evaluate(f"{name}.click()")
    assert browser.evaluate(off) == ["layer 0"]
    night = {"name": "prefers-color-scheme", "value": "dark"}
    browser.call("Emulation.setEmulatedMedia", features=[night])  # all is drawn anew
    browser.evaluate("new Promise((then) => requestAnimationFrame(() => setTimeout(then, 50)))")
    assert browser.evaluate(off) == ["layer 0"]
    key = "new KeyboardEvent('keydown', { key: 'Enter' })"
    browser.evaluate(f"{name}.dispatchEvent({key})")
    assert browser.evaluate(off) == []


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1400, "light")])
def test_curves_are_readable_and_fit(browser: Browser, page: Path, width: int, scheme: str) -> None:
    open_curves(browser, page, width=width, scheme=scheme)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    contrast, where = browser.evaluate(CONTRASTS)
    assert contrast >= 4.5, where
    widths = browser.evaluate(
        "[...document.querySelectorAll('.curves canvas')].map((one) => one.clientWidth)"
    )
    assert len(widths) == 5
    assert all(250 < wide <= width for wide in widths)
    drawn = "new Set(document.querySelector('.curves canvas').getContext('2d')"
    drawn += ".getImageData(0, 0, 300, 150).data).size"
    assert browser.evaluate(drawn) > 8


def test_without_scripts_the_figures_are_named_instead(browser: Browser, page: Path) -> None:
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    browser.open(page, width=1000, scheme="light")
    browser.call("Emulation.setScriptExecutionDisabled", value=False)
    assert browser.evaluate("document.querySelectorAll('noscript p').length") == 1
    assert browser.evaluate("document.querySelectorAll('.curves canvas').length") == 0
    assert browser.evaluate("document.querySelectorAll('figure svg').length") >= 3


def test_nothing_complains_or_is_fetched(browser: Browser, page: Path) -> None:
    open_curves(browser, page)
    asked = {request["request"]["url"] for request in browser.said("Network.requestWillBeSent")}
    assert {url for url in asked if not url.startswith("data:image/png")} == {page.as_uri()}
    assert not browser.said("Runtime.exceptionThrown")
    assert not browser.said("Runtime.consoleAPICalled")
    assert not browser.said("Log.entryAdded")
