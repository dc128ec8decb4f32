"""Numbers as a reader says them, and names as a figure can show them."""

import math
from collections.abc import Sequence


def count_label(number: float) -> str:
    """A count in two or three digits: 320 k, 4.8 M, 124 M, 2.6 B."""
    for size, letter in ((1e9, " B"), (1e6, " M"), (1e3, " k")):
        if number >= 0.9995 * size:
            return f"{number / size:.{0 if number >= 9.95 * size else 1}f}{letter}"
    return f"{number:.0f}"


def rate_label(rate: float) -> str:
    """A rate as one types it: 0.14, below 0.001 2e-4, and from 100,000 on 1e5."""
    if rate < 0:
        return f"−{rate_label(-rate)}"
    if 1e-3 <= rate < 1e5 or not rate or not math.isfinite(rate):
        return f"{rate:g}"
    mantissa, exponent = f"{rate:.3e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def distinct_labels(names: Sequence[str]) -> dict[str, str]:
    """A `plain_label` for each name, no two the same.

    Long names that begin alike are cut in front, as what tells them apart stands at their end;
    those that end alike too have a number.
    """
    heads = {name: plain_label(name) for name in names}
    tails = {name: plain_label(f"…{name[-_LONGEST + 1 :]}") for name in names}
    found: dict[str, str] = {}
    for name in names:
        alike = list(heads.values()).count(heads[name]) > 1
        label = tails[name] if alike and len(name) > _LONGEST else heads[name]
        if label in found.values():
            label = f"{label} #{len(found) + 1}"
        found[name] = label
    return found


_LONGEST = 28


def plain_label(name: str, longest: int = _LONGEST) -> str:
    """A name of somebody else's as text in a figure: no formula, no second line, not too long."""
    text = "".join(letter if letter.isprintable() else " " for letter in str(name)).strip()
    if len(text) > longest:
        text = f"{text[: longest - 1]}…"
    text = text.replace("$", r"\$")
    # matplotlib leaves labels that begin with an underscore out of a legend.
    return f"\u200b{text}" if text.startswith("_") else text or "unnamed"
