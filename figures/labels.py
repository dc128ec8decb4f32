"""Numbers as a reader says them."""


def count_label(number: float) -> str:
    """A count in two or three digits: 320 k, 4.8 M, 124 M, 2.6 B."""
    for size, letter in ((1e9, " B"), (1e6, " M"), (1e3, " k")):
        if number >= 0.9995 * size:
            return f"{number / size:.{0 if number >= 9.95 * size else 1}f}{letter}"
    return f"{number:.0f}"


def rate_label(rate: float) -> str:
    """A rate as one types it: 0.14, and below 0.001 2e-4."""
    if rate >= 1e-3 or not rate:
        return f"{rate:g}"
    mantissa, exponent = f"{rate:.3e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def plain_label(name: str, longest: int = 28) -> str:
    """A name of somebody else's as text in a figure: no formula, no second line, not too long."""
    text = "".join(letter if letter.isprintable() else " " for letter in str(name)).strip()
    if len(text) > longest:
        text = f"{text[: longest - 1]}…"
    text = text.replace("$", r"\$")
    # matplotlib leaves labels that begin with an underscore out of a legend.
    return f"\u200b{text}" if text.startswith("_") else text or "unnamed"
