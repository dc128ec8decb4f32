"""How well a model does that knows nothing but how often each token occurs."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def unigram_entropy(tokens: NDArray[np.unsignedinteger[Any]]) -> float:
    """Entropy of the token frequencies, −Σ p ln p, in nats.

    A model whose loss is above it predicts worse than token counts do; the stability test's
    `lr_collapse` is where a run returns there.
    """
    counts = np.zeros(0, dtype=np.int64)
    for start in range(0, tokens.size, 1 << 22):  # bincount copies to int64: bound the copy
        part = np.bincount(tokens[start : start + (1 << 22)], minlength=counts.size)
        part[: counts.size] += counts
        counts = part
    p = counts[counts > 0] / tokens.size
    return float(-(p * np.log(p)).sum())
