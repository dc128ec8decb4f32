import math
from html.parser import HTMLParser
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup
from matplotlib.figure import Figure

from gradlab.pages import html
from gradlab.pages.html import breakable, inline_svg
from gradlab.pages.table import Cell, Table, number


class Reader(HTMLParser):
    """What a browser makes of a text: elements, and the words between them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(str(text))  # of Markup, joining would escape again
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data


TURNING = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
SHOWN = st.characters(exclude_categories=["Cc", "Cs"], exclude_characters=TURNING)


def fragment(source: str, **values: object) -> str:
    """A template of one line, in the environment of the pages."""
    return html.environment().from_string(source).render(values)


@given(st.text(SHOWN))
def test_any_text_comes_back_as_it_was(text: str) -> None:
    page = Reader(fragment('<p title="{{ text }}">{{ text }}</p>', text=text))
    assert page.words == text
    assert page.tags == [("p", {"title": text})]
    assert Reader(breakable(text)).words == text


def test_a_name_may_break_and_an_interval_stays_whole() -> None:
    assert breakable("blocks.0.attention_out") == "blocks.0.<wbr>attention_<wbr>out"
    assert breakable("0.14 (0.13 to 0.16)") == '0.14 <span class="whole">(0.13 to 0.16)</span>'
    assert Reader(breakable("f(<b>)")).tags == [("span", {"class": "whole"})]


@pytest.mark.parametrize("text", ["\x00", "\x1b[31m", "\ud800", "\u202eabc"])
def test_what_no_page_can_show_is_replaced(text: str) -> None:
    for shown in (fragment("{{ text }}", text=text), breakable(text)):
        shown.encode()
        assert "\N{REPLACEMENT CHARACTER}" in shown


def test_markup_is_not_escaped_twice() -> None:
    bold = Markup("<b>{}</b>").format("a & b")
    assert fragment("{{ text }} {{ bold }}", text="1 < 2", bold=bold) == (
        "1 &lt; 2 <b>a &amp; b</b>"
    )


def test_numbers_are_sorted_as_numbers_and_missing_ones_last() -> None:
    rows = [[Cell("a"), number(-0.5)], [Cell("b"), number(None)], [Cell("c"), number(12, "d")]]
    rows.append([Cell("d"), number(-math.inf)])
    table = Table(["name", "figure"], rows, "some")
    source = '{% from "parts.html" import sortable %}{{ sortable(table) }}'
    page = Reader(fragment(source, table=table))
    orders = [attributes["data-order"] for tag, attributes in page.tags if tag == "td"]
    assert orders == ["-0.5", "", "12.0", "-Infinity"]
    headings = [attributes for tag, attributes in page.tags if tag == "th"]
    assert headings[1]["class"] == "number"
    assert "class" not in headings[0]
    assert "−0.5" in page.words
    assert "–" in page.words


def svg(text: str = "a < b") -> bytes:
    figure = Figure(figsize=(2, 1))
    ax = figure.add_subplot()
    ax.plot([0, 1], [0, 5])
    ax.set_title(text)
    content = BytesIO()
    figure.savefig(content, format="svg")
    return content.getvalue()


def test_two_figures_of_a_page_share_no_name() -> None:
    one, two = (Reader(inline_svg(svg(), prefix, "a figure")) for prefix in ("f1-", "f2-"))
    ids = [{a["id"] for _, a in page.tags if "id" in a} for page in (one, two)]
    assert ids[0]
    assert not ids[0] & ids[1]
    uses = [a["xlink:href"] for tag, a in one.tags if tag == "use"]
    assert uses
    assert {str(use)[1:] for use in uses} <= ids[0]
    clips = [a["clip-path"] for _, a in one.tags if "clip-path" in a]
    assert {str(clip)[5:-1] for clip in clips} <= ids[0]


def test_a_figure_brings_no_style_sheet_and_names_no_other_place() -> None:
    text = inline_svg(svg(), "f-", 'a "figure"')
    assert isinstance(text, Markup)
    page = Reader(text)
    assert {"style", "metadata"}.isdisjoint(tag for tag, _ in page.tags)
    tag, attributes = page.tags[0]
    assert tag == "svg"
    assert attributes["aria-label"] == 'a "figure"'
    # 2 inches are 192 pixels of CSS.
    assert attributes["style"] == "width: 288px; --paper: 192px"
    assert "width" not in attributes
