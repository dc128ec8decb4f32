import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from devices import NoHostReads
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention.bias import causal_lower_right, causal_upper_left

from gradlab.probes.attention.bounds import (
    FusedCall,
    Largest,
    exact,
    fused_call,
    largest,
    lower_bound,
    unmasked,
    upper_bound,
)


def twin(q: Tensor, k: Tensor, visible: Tensor, scale: float, gqa: bool = False) -> Largest:
    """Pair by pair, as large as it is, in float64."""
    if gqa:
        k = k.repeat_interleave(q.shape[-3] // k.shape[-3], -3)
    scores = torch.einsum("...id,...jd->...ij", q.double(), k.double()) * scale
    visible = visible.expand(scores.shape)
    high = torch.where(visible, scores, -math.inf).amax((-2, -1))
    return Largest(high, torch.where(visible, scores.abs(), -math.inf).amax((-2, -1)))


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def triangle(queries: int, keys: int, offset: int = 0) -> Tensor:
    return torch.tensor([[j <= i + offset for j in range(keys)] for i in range(queries)])


def cases() -> Iterator[tuple[str, tuple[int, ...], tuple[int, ...], dict[str, Any], Tensor]]:
    """Name, shape of q, shape of k, arguments, and which pairs are visible."""
    every = torch.tensor(True)
    yield "plain", (2, 3, 5, 4), (2, 3, 7, 4), {}, every
    yield "causal", (2, 3, 5, 4), (2, 3, 5, 4), {"is_causal": True}, triangle(5, 5)
    yield "causal, more keys", (2, 3, 5, 4), (2, 3, 8, 4), {"is_causal": True}, triangle(5, 8)
    yield "causal, fewer keys", (2, 3, 7, 4), (2, 3, 4, 4), {"is_causal": True}, triangle(7, 4)
    yield "scale", (2, 3, 5, 4), (2, 3, 5, 4), {"scale": -2.0}, every
    yield "folded heads", (6, 5, 4), (6, 5, 4), {"is_causal": True}, triangle(5, 5)
    yield "no batch", (5, 4), (7, 4), {}, every
    yield "five dimensions", (2, 2, 3, 5, 4), (2, 2, 3, 5, 4), {"is_causal": True}, triangle(5, 5)
    yield "broadcast", (2, 3, 5, 4), (1, 1, 5, 4), {}, every
    shared = {"enable_gqa": True, "is_causal": True}
    yield "shared keys", (2, 6, 5, 4), (2, 2, 5, 4), shared, triangle(5, 5)
    some = random(2, 1, 5, 7, seed=3) > 0
    yield "mask", (2, 3, 5, 4), (2, 3, 7, 4), {"attn_mask": some}, some
    by_head = random(2, 6, 5, 5, seed=4) > 0
    masked = {"attn_mask": by_head, "enable_gqa": True}
    yield "mask by head, shared keys", (2, 6, 5, 4), (2, 3, 5, 4), masked, by_head
    keys = torch.tensor([True, False, True, True, False])
    yield "mask of keys", (2, 3, 5, 4), (2, 3, 5, 4), {"attn_mask": keys[None]}, keys
    added = torch.zeros(2, 1, 5, 7).masked_fill(~some, -math.inf) + 0.5
    yield "added", (2, 3, 5, 4), (2, 3, 7, 4), {"attn_mask": added}, some
    least = torch.zeros(2, 1, 5, 7).masked_fill(~some, torch.finfo(torch.float32).min)
    yield "added minimum", (2, 3, 5, 4), (2, 3, 7, 4), {"attn_mask": least}, some
    late = causal_lower_right(5, 7)
    yield "lower right", (2, 3, 5, 4), (2, 3, 7, 4), {"attn_mask": late}, triangle(5, 7, 2)
    early = causal_upper_left(5, 7)
    yield "upper left", (2, 3, 5, 4), (2, 3, 7, 4), {"attn_mask": early}, triangle(5, 7)
    yield "nothing", (2, 3, 5, 4), (2, 3, 5, 4), {"attn_mask": ~every[None, None]}, ~every


def call_of(q: Tensor, k: Tensor, given: dict[str, Any]) -> FusedCall:
    call = fused_call(q, k, **given)
    assert call is not None
    return call


@pytest.mark.parametrize("case", [*cases()], ids=lambda case: case[0])
@pytest.mark.parametrize("chunk", [1, 60, 10**6])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_every_kind_of_call_against_every_pair(
    case: tuple[Any, ...], chunk: int, dtype: torch.dtype
) -> None:
    _, q_shape, k_shape, given, visible = case
    q, k = random(*q_shape, dtype=dtype), random(*k_shape, seed=1, dtype=dtype)
    F.scaled_dot_product_attention(q, k, k, **masked_as(given, dtype))  # torch takes them, too
    scale = given.get("scale", 0.5)
    expected = twin(q, k, visible, scale, given.get("enable_gqa", False))
    call = call_of(q, k, given)
    with NoHostReads():
        found, upper = exact(call, chunk), upper_bound(call)
        lower = lower_bound(call, upper)
    shape = torch.broadcast_shapes(q.shape[:-2], () if "enable_gqa" in given else k.shape[:-2])
    for value in (found.high, found.max_abs, upper):
        assert value.shape == (shape or (1,))
    torch.testing.assert_close(found.high.double(), expected.high.expand(found.high.shape))
    torch.testing.assert_close(found.max_abs.double(), expected.max_abs.expand(found.high.shape))
    assert (upper >= expected.max_abs).all()
    assert lower is not None
    assert (lower.high <= expected.high).all()
    assert (lower.max_abs <= expected.max_abs).all()


def masked_as(given: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    mask = given.get("attn_mask")
    if isinstance(mask, Tensor) and type(mask) is Tensor and mask.is_floating_point():
        return {**given, "attn_mask": mask.to(dtype)}
    return given


def test_the_lower_bound_is_that_of_the_pairs_at_one_place() -> None:
    q, k = random(2, 3, 5, 4), random(2, 3, 7, 4, seed=1)
    call = call_of(q, k, {"is_causal": True})
    lower = lower_bound(call, upper_bound(call))
    places = torch.eye(5, 7, dtype=torch.bool)
    expected = twin(q, k, places, 0.5)
    assert lower is not None
    torch.testing.assert_close(lower.high.double(), expected.high, atol=1e-4, rtol=0)
    torch.testing.assert_close(lower.max_abs.double(), expected.max_abs, atol=1e-4, rtol=0)


def test_nothing_is_certain_where_no_query_sees_its_place() -> None:
    q = random(1, 1, 3, 4)
    shifted = ~torch.eye(3, dtype=torch.bool)
    call = call_of(q, q, {"attn_mask": shifted})
    lower = lower_bound(call, upper_bound(call))
    assert lower is not None
    assert lower.high.item() == lower.max_abs.item() == -math.inf
    late = FusedCall(random(1, 1, 1, 5, 4), random(1, 1, 1, 3, 4, seed=1), 0.5, -2, None)
    expected = twin(late.q[:, :, 0], late.k[:, :, 0], triangle(5, 3, -2), 0.5)
    torch.testing.assert_close(exact(late, 1).high.double(), expected.high)
    hidden = FusedCall(q.unsqueeze(2), q.unsqueeze(2), 0.5, -3, None)
    assert lower_bound(hidden, upper_bound(hidden)) is None
    assert exact(hidden).high.item() == -math.inf


numbers = st.floats(width=32, allow_nan=False, allow_infinity=False)
halves = st.floats(width=16, allow_nan=False, allow_infinity=False)


@given(st.data(), st.sampled_from([torch.float16, torch.bfloat16, torch.float32]))
@settings(max_examples=100)
def test_the_bounds_hold_for_any_numbers(data: st.DataObject, dtype: torch.dtype) -> None:
    """Float64 has the exact products of two fp32 numbers, and their sums nearly so."""
    number = halves if dtype is torch.float16 else numbers
    d = data.draw(st.sampled_from([1, 2, 5]))
    entries = st.lists(number, min_size=3 * d, max_size=3 * d)
    q, k = (torch.tensor(data.draw(entries)).view(1, 1, 3, d).to(dtype) for _ in range(2))
    q, k = (x.nan_to_num(posinf=1e38, neginf=-1e38) for x in (q, k))  # bf16 has a lower maximum
    scale = data.draw(st.sampled_from([1.0, 0.125, -3.0, 1e-6]))
    expected = twin(q, k, triangle(3, 3), scale)
    call = call_of(q, k, {"is_causal": True, "scale": scale})
    upper = upper_bound(call)
    lower = lower_bound(call, upper)
    tolerance = 1e-14 * upper.double()  # the twin's own
    assert lower is not None
    assert (upper.double() + tolerance >= expected.max_abs).all()
    assert (lower.high.double() - tolerance <= expected.high).all()
    assert (lower.max_abs.double().clamp(min=0) - tolerance <= expected.max_abs).all()


@pytest.mark.parametrize("magnitude", [1e-30, 1e-22, 1.0, 1e10, 1e25])
def test_the_upper_bound_is_tight_where_q_and_k_align(magnitude: float) -> None:
    q = torch.full((1, 1, 1, 8), magnitude, dtype=torch.float32)
    k = torch.full((1, 1, 1, 8), 1 / magnitude, dtype=torch.float32)
    upper = upper_bound(call_of(q, k, {"scale": 1.0})).item()
    assert upper >= (q.double() * k.double()).sum().item()
    if 1e-18 < magnitude < 1e18:
        assert upper == pytest.approx(8, rel=1e-4)


def test_what_is_not_finite_is_never_within_a_bound() -> None:
    q = torch.ones(1, 1, 2, 4)
    for entry in (math.inf, -math.inf, math.nan):
        k = q.clone()
        k[0, 0, 1, 2] = entry
        assert not upper_bound(call_of(q, k, {})).isfinite().any()
        found = exact(call_of(q, k, {}))
        assert not found.max_abs.isfinite().any()
        assert math.isnan(found.high.item()) == math.isnan(entry)


def test_largest_leaves_out_what_is_hidden() -> None:
    scores = torch.tensor([[[1.0, -9.0], [3.0, -math.inf]]])
    hidden = torch.tensor([[False, False], [True, True]])
    assert largest(scores, hidden) == Largest(torch.tensor([1.0]), torch.tensor([9.0]))
    seen = largest(scores)
    assert (seen.high.item(), seen.max_abs.item()) == (3.0, math.inf)
    nothing = largest(scores, torch.ones(2, 2, dtype=torch.bool))
    assert nothing.high.item() == nothing.max_abs.item() == -math.inf


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_scores_at_or_below_a_number_are_masked(dtype: torch.dtype) -> None:
    masked = torch.finfo(dtype).min / 2
    rows = [[1, -9, masked], [-7, -3, -math.inf], [masked, masked, -math.inf], [2, math.nan, 3]]
    found = unmasked(torch.tensor(rows, dtype=dtype)[:, None], masked)
    assert found.high[:3].tolist() == [1, -3, -math.inf]
    assert found.max_abs[:3].tolist() == [9, 7, -math.inf]
    assert found.high[3].isnan()
    assert found.max_abs[3].isnan()


def test_what_cannot_be_looked_at() -> None:
    ragged = torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(4, 3)], layout=torch.jagged)
    assert fused_call(ragged, ragged) is None
    assert fused_call(torch.ones(1, 2, 0, 4), torch.ones(1, 2, 0, 4)) is None
