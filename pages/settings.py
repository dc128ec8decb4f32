"""The settings of a page's runs, side by side: what differs is marked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gradlab.analyses.settings import Setting, differing, keys_of, settings
from gradlab.pages.table import Cell
from gradlab.runs.reader import Run


@dataclass(frozen=True)
class Row:
    """One setting, of each column or of all."""

    name: str
    cells: Sequence[Cell]


@dataclass(frozen=True)
class SideBySide:
    """A column a setting: what differs between them, and what is alike in all, a value a row."""

    columns: Sequence[str]
    differing: Sequence[Row]
    alike: Sequence[Row]


def side_by_side(runs: Mapping[str, Run]) -> SideBySide:
    """The settings of the runs; cells that differ from the first are marked."""
    found = settings(runs)
    differ = differing(found)
    rows = [Row("seeds", [Cell(_seeds(setting)) for setting in found])]
    alike = []
    for key in keys_of(found):
        if key not in differ:
            value = next(setting.values for setting in found if key in setting.values)
            alike.append(Row(key, [_cell(_value(value, key))]))
            continue
        first = _value(found[0].values, key)
        cells = []
        for setting in found:
            text = _value(setting.values, key)
            cells.append(_cell(text, other=key in setting.values and text != first))
        rows.append(Row(key, cells))
    return SideBySide([setting.label for setting in found], rows, alike)


def _cell(text: str, *, other: bool = False) -> Cell:
    class_ = " ".join([*["other"] * other, *["wrap"] * (len(text) > 24)])
    return Cell(text, class_=class_ or None)


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
