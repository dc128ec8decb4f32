"""Windows of a token array as (inputs, targets): a batch is a function of (seed, step, micro).

Of a masked model's, the mask is another function of the same.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from gradlab.data.masking import Masking
from gradlab.data.tokens import Tokens

Batch = tuple[torch.Tensor, torch.Tensor]
"""Inputs and targets, both int64 on the CPU, (B, T): targets are inputs one token later, or what
a mask hides of a window (`Masking.apply`)."""

_MASKS = 1
"""Tells the generator of a batch's masks from that of its offsets."""


def train_batch(
    tokens: Tokens,
    *,
    seed: int,
    step: int,
    batch_size: int,
    seq_len: int,
    micro: int = 0,
    masking: Masking | None = None,
    rows: slice = slice(None),
) -> Batch:
    """One micro-batch of windows at independent, uniformly drawn offsets, with replacement.

    The offsets come from a generator of their own that is seeded with (seed, step, micro), so no
    batch depends on what was drawn before it, on the model, or on where a run was resumed. Raw
    PCG64 words modulo the number of offsets are used, because NumPy keeps raw streams the same in
    every version and derived ones not; the modulo favours no offset by more than n · 2^-64.

    Args:
        tokens: Ids, shape (tokens,), more than seq_len of them.
        seed: The run's seed, 0 or more.
        step: 0-based step.
        batch_size: Windows, B.
        seq_len: Tokens of a window, T.
        micro: 0-based micro-batch within the step.
        masking: Of a masked model, whose windows are a causal model's.
        rows: Those of the batch that are wanted; all, unless given.
    """
    words = _generator(seed, step, micro).random_raw(batch_size)
    starts = (words % np.uint64(tokens.size - seq_len)).astype(np.int64)
    if masking is None:
        return _windows(tokens, starts[rows], seq_len)
    windows, _ = _windows(tokens, starts, seq_len)
    inputs, targets = masking.apply(windows, _generator(seed, step, micro, _MASKS))
    return inputs[rows], targets[rows]


def validation_batches(
    tokens: Tokens,
    *,
    batch_size: int,
    seq_len: int,
    count: int,
    masking: Masking | None = None,
    rows: slice = slice(None),
) -> Iterator[Batch]:
    """The same `count` batches every time: windows evenly spaced from first to last token.

    Their masks are the same every time too, whatever the run's seed. Of each batch only the rows
    that are wanted.
    """
    starts = np.linspace(0, tokens.size - seq_len - 1, batch_size * count).astype(np.int64)
    for number, at in enumerate(starts.reshape(count, batch_size)):
        if masking is None:
            yield _windows(tokens, at[rows], seq_len)
            continue
        inputs, targets = masking.apply(_windows(tokens, at, seq_len)[0], _generator(0, number))
        yield inputs[rows], targets[rows]


def _generator(seed: int, *purpose: int) -> np.random.PCG64:
    return np.random.PCG64(np.random.SeedSequence(seed, spawn_key=purpose))


def _windows(tokens: Tokens, starts: NDArray[np.int64], seq_len: int) -> Batch:
    positions = starts[:, None] + np.arange(seq_len + 1)  # (B, T+1)
    windows = torch.from_numpy(tokens[positions].astype(np.int64))
    return windows[:, :-1].contiguous(), windows[:, 1:].contiguous()
