from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gradlab.data import train_batch, validation_batches

TOKENS = np.arange(1000, dtype=np.uint16)  # id = position, so that a window shows its offset


def batch(seed: int = 0, step: int = 0, micro: int = 0) -> torch.Tensor:
    inputs, _ = train_batch(TOKENS, seed=seed, step=step, micro=micro, batch_size=8, seq_len=16)
    return inputs


def test_windows_are_consecutive_tokens_and_targets_come_one_later() -> None:
    inputs, targets = train_batch(TOKENS, seed=3, step=5, batch_size=8, seq_len=16)
    assert inputs.shape == targets.shape == (8, 16)
    assert inputs.dtype == targets.dtype == torch.int64
    assert inputs.device.type == "cpu"
    for row, next_row in zip(inputs.tolist(), targets.tolist(), strict=True):
        assert row == list(range(row[0], row[0] + 16))
        assert next_row == list(range(row[0] + 1, row[0] + 17))


@given(
    seed=st.integers(0, 2**40),
    step=st.integers(0, 2**40),
    micro=st.integers(0, 100),
    between=st.lists(st.integers(0, 50), max_size=3),
)
def test_a_batch_is_a_function_of_seed_step_and_micro(
    seed: int, step: int, micro: int, between: list[int]
) -> None:
    first = batch(seed, step, micro)
    for other in between:
        batch(seed, other)
        torch.rand(1)
        np.random.default_rng(other).random()
    assert torch.equal(batch(seed, step, micro), first)


def test_batches_of_other_seeds_steps_and_micros_differ() -> None:
    seen = {
        tuple(batch(seed, step, micro)[:, 0].tolist())
        for seed in range(8)
        for step in range(8)
        for micro in range(8)
    }
    assert len(seen) == 8**3


def test_the_process_wide_generators_are_left_alone() -> None:
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    batch(1, 2, 3)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


def test_offsets_are_uniform_and_reach_both_ends() -> None:
    tokens = np.arange(116, dtype=np.uint8)
    starts = np.concatenate(
        [
            train_batch(tokens, seed=0, step=step, batch_size=64, seq_len=16)[0][:, 0].numpy()
            for step in range(1000)
        ]
    )
    counts = np.bincount(starts, minlength=100)
    assert counts.size == 100  # offsets 0 … 99: the last window ends with the last token
    expected = starts.size / 100
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    # 99 degrees of freedom: mean 99, standard deviation 14
    assert 50 < chi_square < 160, chi_square


def test_offsets_of_neighbouring_steps_are_uncorrelated() -> None:
    starts = np.array([batch(step=step)[:, 0].numpy() for step in range(2000)], dtype=float)
    correlation = np.corrcoef(starts[:-1].ravel(), starts[1:].ravel())[0, 1]
    assert abs(correlation) < 4 / starts.size**0.5


def test_offsets_stay_as_they_were_published() -> None:
    # Published results name a seed: another NumPy or a rewrite must not change what it draws.
    tokens = np.arange(5000, dtype=np.uint16)
    starts = [
        train_batch(tokens, seed=seed, step=step, micro=micro, batch_size=3, seq_len=64)[0][:, 0]
        for seed, step, micro in [(0, 0, 0), (2, 695, 0), (1, 3, 1)]
    ]
    assert torch.stack(starts).tolist() == [[124, 3370, 3527], [88, 2530, 4106], [720, 3826, 4868]]


def test_a_memory_mapped_corpus_gives_the_same_batches(tmp_path: Path) -> None:
    TOKENS.tofile(tmp_path / "tokens.bin")
    mapped = np.memmap(tmp_path / "tokens.bin", dtype=np.uint16, mode="r")
    inputs, _ = train_batch(mapped, seed=0, step=0, batch_size=8, seq_len=16)
    assert torch.equal(inputs, batch())


def test_the_shortest_corpus_has_one_window() -> None:
    tokens = np.arange(17, dtype=np.uint32)
    inputs, targets = train_batch(tokens, seed=0, step=0, batch_size=2, seq_len=16)
    assert inputs.tolist() == [list(range(16))] * 2
    assert targets[0, -1] == 16
    ((first, _),) = validation_batches(tokens, batch_size=2, seq_len=16, count=1)
    assert first.tolist() == [list(range(16))] * 2


@pytest.mark.parametrize("count", [1, 3, 7])
def test_validation_windows_are_evenly_spaced_and_fixed(count: int) -> None:
    def read() -> list[tuple[torch.Tensor, torch.Tensor]]:
        return list(validation_batches(TOKENS, batch_size=4, seq_len=16, count=count))

    batches = read()
    assert len(batches) == count
    starts = torch.cat([inputs[:, 0] for inputs, _ in batches])
    gaps = starts.diff()
    assert starts[0] == 0
    assert starts[-1] == 1000 - 17
    assert gaps.max() - gaps.min() <= 1
    for (inputs, targets), (again, _) in zip(batches, read(), strict=True):
        assert torch.equal(inputs, again)
        assert torch.equal(inputs + 1, targets)
