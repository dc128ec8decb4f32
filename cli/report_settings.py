"""The settings of a report's runs, side by side."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gradlab.cli.html import Markup, breakable, element, scrolling

if TYPE_CHECKING:
    from gradlab.analyses.settings import Setting


def settings_section(found: "Sequence[Setting]") -> Markup:
    """A column a setting; rows that differ are marked, and cells that differ from the first."""
    from gradlab.analyses.settings import differing, keys_of

    differ = differing(found)
    rows = [
        element(
            "tr",
            element("th", "seeds", scope="row"),
            *(element("td", _seeds(setting)) for setting in found),
        )
    ]
    for key in keys_of(found):
        cells = []
        for setting in found:
            text = _value(setting.values, key)
            here = key in differ and key in setting.values
            other = here and text != _value(found[0].values, key)
            class_ = " ".join([*["other"] * other, *["wrap"] * (len(text) > 24)])
            cells.append(element("td", text, class_=class_ or None))
        rows.append(
            element(
                "tr",
                element("th", breakable(key), scope="row"),
                *cells,
                class_="differs" if key in differ else None,
            )
        )
    head = element(
        "tr",
        element("th", "", scope="col"),
        *(element("th", setting.label, scope="col") for setting in found),
    )
    made = element("table", element("thead", head), element("tbody", *rows), class_="settings")
    parts = [scrolling(made, "Settings")]
    if len(found) > 1:
        box = element("input", type="checkbox", class_="only")
        choice = element("label", box, "only what differs", class_="choice")
        words = f"{len(differ)} of these differ; what is not as in the first column is underlined."
        parts = [element("p", words, class_="quiet"), choice, *parts]
    return element("div", *parts, class_="alike")


def _seeds(setting: "Setting") -> str:
    return ", ".join(str(seed) for seed in setting.seeds) or "–"


def _value(values: Mapping[str, Any], key: str) -> str:
    if key not in values:
        return "–"
    value = values[key]
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if key == "corpus.sha256":  # whole under how to repeat it
        return f"{value[:12]}…"
    return "none" if value is None else f"{value:,}" if key == "params" else str(value)
