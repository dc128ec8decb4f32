"""What a masked model is shown, against a loop over its tokens and the law of its numbers."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from gradlab.data import train_batch, validation_batches
from gradlab.data.masking import Masking
from gradlab.models.loss import UNCHOSEN

TOKENS = np.arange(1000, dtype=np.uint16) % 200
ORDINARY = np.arange(200)
MASK = 200


def masked(
    seed: int = 0, step: int = 0, micro: int = 0, *, batch_size: int = 8, seq_len: int = 16
) -> tuple[torch.Tensor, torch.Tensor]:
    shape = {"batch_size": batch_size, "seq_len": seq_len}
    masking = Masking(MASK, ORDINARY)
    return train_batch(TOKENS, seed=seed, step=step, micro=micro, **shape, masking=masking)


def by_hand(
    windows: list[int], words: list[int], becomes: list[int], drawn: list[int]
) -> tuple[list[int], list[int]]:
    """The places with the smallest words, and ten equally likely fates of each."""
    inputs, targets = list(windows), [UNCHOSEN] * len(windows)
    places = sorted(range(len(windows)), key=lambda place: (words[place], place))[: len(becomes)]
    for place, fate, random in zip(places, becomes, drawn, strict=True):
        targets[place] = windows[place]
        if fate % 10 < 8:
            inputs[place] = 77
        elif fate % 10 == 8:
            inputs[place] = [3, 5, 9][random % 3]
    return inputs, targets


@given(seed=st.integers(0, 2**63 - 1), batch=st.integers(1, 5), length=st.integers(1, 40))
@example(seed=0, batch=3, length=30)
def test_what_is_shown_follows_from_the_generators_words(
    seed: int, batch: int, length: int
) -> None:
    windows = torch.randint(70, (batch, length), generator=torch.Generator().manual_seed(seed))
    masking = Masking(77, np.array([3, 5, 9]))
    inputs, targets = masking.apply(windows, np.random.PCG64(seed))
    assert inputs.shape == targets.shape == windows.shape
    draw = np.random.PCG64(seed)
    count = max(1, round(0.15 * (batch * length)))
    words, becomes, drawn = (draw.random_raw(n).tolist() for n in (batch * length, count, count))
    shown, told = by_hand(windows.flatten().tolist(), words, becomes, drawn)
    assert inputs.flatten().tolist() == shown
    assert targets.flatten().tolist() == told


@given(seed=st.integers(0, 2**40), step=st.integers(0, 2**40), micro=st.integers(0, 9))
def test_masks_are_a_function_of_seed_step_and_micro_over_a_causal_models_windows(
    seed: int, step: int, micro: int
) -> None:
    inputs, targets = masked(seed, step, micro)
    torch.rand(1)
    again = masked(seed, step, micro)
    assert torch.equal(inputs, again[0])
    assert torch.equal(targets, again[1])
    chosen = targets != UNCHOSEN
    assert chosen.sum() == round(0.15 * 8 * 16)
    windows, _ = train_batch(TOKENS, seed=seed, step=step, micro=micro, batch_size=8, seq_len=16)
    assert torch.equal(torch.where(chosen, targets, inputs), windows)


def test_masks_of_other_seeds_steps_and_micros_differ_and_are_not_the_offsets_words() -> None:
    seen = {
        tuple((masked(seed, step, micro)[1] != UNCHOSEN).flatten().tolist())
        for seed in range(4)
        for step in range(4)
        for micro in range(4)
    }
    assert len(seen) == 4**3


def test_every_place_is_chosen_alike_and_eight_of_ten_are_masked() -> None:
    rounds, chosen, fates, random = 2000, np.zeros((2, 16)), Counter[str](), Counter[int]()
    for step in range(rounds):
        inputs, targets = masked(step=step, batch_size=2)
        at = targets != UNCHOSEN
        chosen += at.numpy()
        for shown, hidden in zip(inputs[at].tolist(), targets[at].tolist(), strict=True):
            fates["mask" if shown == MASK else "same" if shown == hidden else "random"] += 1
            random[shown] += shown not in (MASK, hidden)
    count = round(0.15 * 32)
    total = count * rounds
    share = count / 32
    bound = 5 * math.sqrt(rounds * share * (1 - share))  # a place's five standard deviations
    assert np.abs(chosen - rounds * share).max() < bound
    # A random token is the hidden one itself in one of 200.
    expected = {"mask": 0.8, "random": 0.1 * 199 / 200, "same": 0.1 + 0.1 / 200}
    for fate, p in expected.items():
        assert abs(fates[fate] - total * p) < 5 * math.sqrt(total * p * (1 - p)), fate
    assert set(random) - {MASK} <= set(range(200))
    assert len(+random) > 150, "tokens of all kinds"


@pytest.mark.parametrize(("batch_size", "seq_len"), [(1, 1), (1, 2), (3, 1)])
def test_the_smallest_batch_has_one_place_to_tell(batch_size: int, seq_len: int) -> None:
    for step in range(20):
        _, targets = masked(step=step, batch_size=batch_size, seq_len=seq_len)
        assert (targets != UNCHOSEN).sum() == 1


def test_a_validations_masks_are_the_same_every_time() -> None:
    def read() -> list[tuple[torch.Tensor, torch.Tensor]]:
        shape = {"batch_size": 4, "seq_len": 16, "count": 3}
        return list(validation_batches(TOKENS, **shape, masking=Masking(MASK, ORDINARY)))

    plain = validation_batches(TOKENS, batch_size=4, seq_len=16, count=3)
    masks = set()
    for (inputs, targets), again, (windows, _) in zip(read(), read(), plain, strict=True):
        assert torch.equal(inputs, again[0])
        assert torch.equal(targets, again[1])
        chosen = targets != UNCHOSEN
        assert torch.equal(torch.where(chosen, targets, inputs), windows)
        masks.add(tuple(chosen.flatten().tolist()))
    assert len(masks) == 3
