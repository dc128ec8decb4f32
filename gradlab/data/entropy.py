"""How well a model does that knows nothing but how often each token occurs."""

import numpy as np

from gradlab.data.tokens import Tokens, chunks


def unigram_entropy(tokens: Tokens) -> float:
    """Entropy of the token frequencies, −Σ p ln p, in nats.

    A model whose loss is above it predicts worse than token counts do; the stability test's
    `lr_collapse` is where a run returns there.
    """
    counts = np.zeros(0, dtype=np.int64)
    for chunk in chunks(tokens):  # bincount copies to int64
        part = np.bincount(chunk, minlength=counts.size)
        part[: counts.size] += counts
        counts = part
    p = counts[counts > 0] / tokens.size
    return float(-(p * np.log(p)).sum())
