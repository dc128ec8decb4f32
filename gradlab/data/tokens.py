"""Token ids as arrays."""

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Tokens: TypeAlias = NDArray[np.unsignedinteger[Any]]
"""Token ids, one-dimensional: uint8, uint16 or uint32; may be memory-mapped."""

CHUNK = 1 << 22


def id_type(vocabulary: int) -> type[np.unsignedinteger[Any]]:
    """The type of a tokenizer's ids: uint16 where the vocabulary allows it, else uint32."""
    return np.uint16 if vocabulary <= 1 << 16 else np.uint32


def chunks(tokens: Tokens) -> Iterator[Tokens]:
    """Consecutive slices, so that a memory-mapped corpus need not fit into memory."""
    for start in range(0, tokens.size, CHUNK):
        yield tokens[start : start + CHUNK]
