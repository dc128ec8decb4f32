import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradlab.data import tokens, unigram_entropy


def slow_entropy(ids: list[int]) -> float:
    counts = Counter(ids)
    return -math.fsum(n / len(ids) * math.log(n / len(ids)) for n in counts.values())


@given(st.lists(st.integers(0, 300), min_size=1, max_size=60))
def test_it_is_the_entropy_of_the_counts(ids: list[int]) -> None:
    entropy = unigram_entropy(np.array(ids, dtype=np.uint16))
    assert entropy == pytest.approx(slow_entropy(ids), abs=1e-12)


def test_k_equally_frequent_tokens_have_ln_k_nats() -> None:
    assert unigram_entropy(np.tile(np.arange(50, dtype=np.uint8), 20)) == pytest.approx(
        math.log(50)
    )
    assert unigram_entropy(np.full(10, 7, dtype=np.uint8)) == 0.0


def test_it_is_the_same_in_small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = np.sort(np.random.default_rng(0).integers(0, 400, 500)).astype(np.uint16)
    whole = unigram_entropy(ids)
    monkeypatch.setattr(tokens, "CHUNK", 11)
    assert unigram_entropy(ids[::-1]) == pytest.approx(whole, abs=1e-12)
