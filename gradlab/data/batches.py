"""Windows of a token array as (inputs, targets): a batch is a function of (seed, step, micro)."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from gradlab.data.tokens import Tokens

Batch = tuple[torch.Tensor, torch.Tensor]
"""Inputs and targets, both int64 on the CPU, (B, T); targets are inputs one token later."""


def train_batch(
    tokens: Tokens,
    *,
    seed: int,
    step: int,
    batch_size: int,
    seq_len: int,
    micro: int = 0,
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
    """
    generator = np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(step, micro)))
    words = generator.random_raw(batch_size)
    return _windows(tokens, (words % np.uint64(tokens.size - seq_len)).astype(np.int64), seq_len)


def validation_batches(
    tokens: Tokens, *, batch_size: int, seq_len: int, count: int
) -> Iterator[Batch]:
    """The same `count` batches every time: windows evenly spaced from first to last token."""
    starts = np.linspace(0, tokens.size - seq_len - 1, batch_size * count).astype(np.int64)
    for batch in starts.reshape(count, batch_size):
        yield _windows(tokens, batch, seq_len)


def _windows(tokens: Tokens, starts: NDArray[np.int64], seq_len: int) -> Batch:
    positions = starts[:, None] + np.arange(seq_len + 1)  # (B, T+1)
    windows = torch.from_numpy(tokens[positions].astype(np.int64))
    return windows[:, :-1].contiguous(), windows[:, 1:].contiguous()
