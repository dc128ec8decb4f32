"""HTML built of elements whose text is escaped unless it is markup already."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape


class Markup(str):
    """Text that is HTML: not escaped again."""

    __slots__ = ()


Child = str | Iterable[str]

_EMPTY = {"meta", "input", "br", "hr"}


def element(name: str, *children: str, **attributes: str | bool | None) -> Markup:
    """An element; text among its children and all attributes are escaped.

    Args:
        name: Its name.
        *children: Text, or elements.
        **attributes: By name, underscores for hyphens and one at the end for a Python word
            (`class_`); true for one without a value; None and false for none.
    """
    said = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{_text(value)}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    if name in _EMPTY:
        return Markup(f"<{name}{said}>")
    return Markup(f"<{name}{said}>{joined(children)}</{name}>")


def joined(children: Iterable[str], between: str = "") -> Markup:
    """Text and elements as one piece of markup."""
    return Markup(between.join(c if isinstance(c, Markup) else _text(c) for c in children))


def _text(text: str) -> str:
    return escape(_NO_TEXT.sub("\N{REPLACEMENT CHARACTER}", text))


# Control characters, marks that turn the reading direction, halves of characters: a browser would
# drop them, show what follows backwards, or could not be given them.
_NO_TEXT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@dataclass(frozen=True)
class Cell:
    """What a table shows at a place.

    Attributes:
        text: What stands there.
        order: What it is sorted by: a number; a missing one comes last. The text if None.
        class_: Its class in the style sheet.
    """

    text: str
    order: float | None = None
    class_: str | None = None


def number(value: float | None, form: str = ".4g") -> Cell:
    """A number, sorted as such; a dash where there is none."""
    if value is None or value != value:  # NaN
        return Cell("–", float("nan"), "number")
    return Cell(format(value, form).replace("-", "−"), float(value), "number")


def table(
    headings: Sequence[str], rows: Iterable[Sequence[Cell]], *, caption: str, shown: bool = True
) -> Markup:
    """A table that the page's script sorts, in a box that scrolls where the page is narrower.

    Args:
        headings: Of the columns.
        rows: The cells, the first of each row its heading.
        caption: What the table is.
        shown: Whether that stands above it, or is only for a screen reader.
    """
    rows = list(rows)
    numbers = [
        bool(rows) and all(row[place].class_ == "number" for row in rows)
        for place in range(len(headings))
    ]
    head = element(
        "tr",
        *(
            element("th", heading, scope="col", class_="number" if numeric else None)
            for heading, numeric in zip(headings, numbers, strict=True)
        ),
    )
    body = [
        element("tr", *(_cell(cell, "th" if not place else "td") for place, cell in enumerate(row)))
        for row in rows
    ]
    made = element(
        "table",
        element("caption", caption) if shown else "",
        element("thead", head),
        element("tbody", *body),
        class_="sortable",
    )
    return scrolling(made, caption)


def scrolling(inside: Markup, label: str) -> Markup:
    """A box that scrolls sideways, also by the keyboard."""
    return element("div", inside, class_="scroll", tabindex="0", role="region", aria_label=label)


def breakable(text: str) -> Markup:
    """A long name, in which a line may end after each _, / and dot before a word."""
    return Markup(re.sub(r"(?<=[_/])|(?<=\.)(?=[a-z])", "<wbr>", _text(text)))


def note_box(heading: str, sentences: Sequence[str]) -> Markup:
    """Sentences under a heading, set apart; nothing if there are none."""
    if not sentences:
        return Markup("")
    items = (element("li", note) for note in sentences)
    return element("div", element("strong", heading), element("ul", *items), class_="notes")


def _cell(cell: Cell, name: str) -> Markup:
    return element(
        name,
        breakable(cell.text) if name == "th" else cell.text,
        class_=cell.class_,
        data_order=None if cell.order is None else _order(float(cell.order)),
        scope="row" if name == "th" else None,
    )


def _order(order: float) -> str:
    """A number as a script reads it; nothing where it is missing."""
    return "" if math.isnan(order) else repr(order).replace("inf", "Infinity")


def inline_svg(svg: bytes, prefix: str, label: str) -> Markup:
    """An SVG file as an element of a page.

    Its names get a prefix, so that they are the page's only ones; what is for files alone is left
    out, and so is its style sheet, which would hold for the whole page.

    Args:
        svg: The file.
        prefix: For its names; different for every figure of a page.
        label: What a screen reader says.
    """
    text = svg.decode()
    text = text[text.index("<svg") :].strip()
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<style[^>]*>.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{prefix}', text)
    text = re.sub(r'href="#', f'href="#{prefix}', text)
    text = text.replace("url(#", f"url(#{prefix}")
    width = re.match(r'<svg[^>]*?\swidth="([\d.]+)pt"', text)
    points = float(width.group(1)) if width else 0.0
    text = re.sub(r'(<svg[^>]*?)\swidth="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?)\sheight="[^"]*"', r"\1", text, count=1)
    # A CSS pixel is 3/4 of a point; on the screen figures are half as large again as on paper.
    pixels = round(points / 0.75 * 1.5)
    # On a narrow screen they shrink to paper's size, and then scroll.
    size = f"width: {pixels}px; min-width: {round(pixels / 1.5)}px"
    opening = f'<svg role="img" aria-label="{_text(label)}" style="{size}"'
    return Markup(opening + text.removeprefix("<svg"))
