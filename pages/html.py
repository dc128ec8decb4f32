"""What a page's templates are made with: their environment, and pieces of HTML."""

import math
import re
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from gradlab.analyses.wording import printable
from gradlab.pages.table import Cell


def environment() -> Environment:
    """Where the templates are: all text in them is escaped but `Markup`."""
    made = Environment(
        loader=PackageLoader("gradlab.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    made.filters |= {"attributes": attributes, "breakable": breakable}
    return made


def _shown(value: Any) -> Any:
    return value if isinstance(value, Markup) else printable(str(value))


def breakable(text: str) -> Markup:
    """Text in which a line may end after each _, / and dot before a word of a long name.

    What stands in brackets stays in one line, if it is short: an interval, a count.
    """
    names = re.sub(r"(?<=[_/])|(?<=\.)(?=[a-z])", "<wbr>", escape(printable(text)))
    return Markup(re.sub(r"\([^()<>]{1,24}\)", r'<span class="whole">\g<0></span>', names))


def attributes(cell: Cell) -> Markup:
    """A cell's class, and what the script sorts it by: nothing where a number is missing."""
    said = Markup(' class="{}"').format(cell.class_) if cell.class_ else Markup()
    if cell.order is None:
        return said
    order = "" if math.isnan(cell.order) else repr(float(cell.order)).replace("inf", "Infinity")
    return said + Markup(' data-order="{}"').format(order)


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
    for left_out in (r"<metadata>.*?</metadata>", r"<style[^>]*>.*?</style>", r"<!--.*?-->\s*"):
        text = re.sub(left_out, "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{prefix}', text)
    text = re.sub(r'href="#', f'href="#{prefix}', text)
    text = text.replace("url(#", f"url(#{prefix}")
    width = re.match(r'<svg[^>]*?\swidth="([\d.]+)pt"', text)
    points = float(width.group(1)) if width else 0.0
    for name in ("width", "height"):
        text = re.sub(rf'(<svg[^>]*?)\s{name}="[^"]*"', r"\1", text, count=1)
    # A CSS pixel is 3/4 of a point; on the screen figures are half as large again as on paper.
    pixels = round(points / 0.75 * 1.5)
    # On a narrow screen they shrink to its width; asked for at full size, they are as on paper.
    size = f"width: {pixels}px; --paper: {round(pixels / 1.5)}px"
    opening = Markup('<svg role="img" aria-label="{}" style="{}"').format(printable(label), size)
    return opening + Markup(text.removeprefix("<svg"))
