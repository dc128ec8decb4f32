"""Which layer and which operation a parameter or a site belongs to, read off its name."""

_LEAVES = frozenset({"weight", "bias", "gamma"})


def role(name: str) -> tuple[int | None, str]:
    """The 0-based layer (None outside the blocks) and the op that a dotted name says.

    The layer is the first number in the name; the op is the last component that is neither a
    number nor a plain `weight`, `bias` or `gamma`. That gives the names of our own models their
    roles, and those of others a readable fallback.

    >>> role("blocks.3.attention.scores")
    (3, 'scores')
    >>> role("blocks.0.attention.head_scale.gamma")
    (0, 'head_scale')
    >>> role("embed.weight")
    (None, 'embed')
    """
    parts = name.split(".")
    layer = next((int(part) for part in parts if part.isdigit()), None)
    words = [part for part in parts if not part.isdigit()]
    named = [word for word in words if word not in _LEAVES]
    return layer, (named or words or [name])[-1]
