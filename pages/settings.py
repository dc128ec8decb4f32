"""The settings of a page's runs, side by side: what differs is marked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gradlab.analyses.settings import Setting, differing, keys_of, settings
from gradlab.pages.html import Cell
from gradlab.runs.reader import Run


@dataclass(frozen=True)
class Row:
    """One setting of all columns."""

    name: str
    cells: Sequence[Cell]
    differs: bool = False


@dataclass(frozen=True)
class SideBySide:
    """A column a setting, rows of values, and how many of them differ."""

    columns: Sequence[str]
    rows: Sequence[Row]
    differing: int


def side_by_side(runs: Mapping[str, Run]) -> SideBySide:
    """The settings of the runs; cells that differ from the first are marked."""
    found = settings(runs)
    differ = differing(found)
    rows = [Row("seeds", [Cell(_seeds(setting)) for setting in found])]
    for key in keys_of(found):
        first = _value(found[0].values, key)
        cells = []
        for setting in found:
            text = _value(setting.values, key)
            other = key in differ and key in setting.values and text != first
            class_ = " ".join([*["other"] * other, *["wrap"] * (len(text) > 24)])
            cells.append(Cell(text, class_=class_ or None))
        rows.append(Row(key, cells, key in differ))
    return SideBySide([setting.label for setting in found], rows, len(differ))


def _seeds(setting: Setting) -> str:
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
    if key == "corpus.sha256" and value:  # whole under how to repeat it
        return f"{value[:12]}…"
    return "none" if value is None else f"{value:,}" if key == "params" else str(value)
