import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gradlab.precision import products
from gradlab.precision.products import batched_product, matrix_product

EDGES = [
    0.0,
    -0.0,
    2.0**-24,
    -(2.0**-14),
    2.0**-14 - 2.0**-24,
    1.0,
    -1.0,
    255.875,
    65504.0,
    -65504.0,
]
SPECIAL = [float("inf"), float("-inf"), float("nan")]


@pytest.fixture(params=["whole", "tiles", "native"])
def tiling(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every product in one piece, in as many tiles as its shape allows, or left to the CPU."""
    if request.param == "native" and not products._cpu_sums_in_fp32():
        pytest.skip("this CPU has no fp16 products with fp32 sums")
    monkeypatch.setattr(products, "_NATIVE", 0 if request.param == "native" else 2**62)
    if request.param == "tiles":
        monkeypatch.setattr(products, "_TILE", 8)
        monkeypatch.setattr(products, "_WHOLE", 8)
    return str(request.param)


def operands(elements: st.SearchStrategy[float]) -> st.SearchStrategy[tuple[Tensor, Tensor]]:
    """Two fp16 matrices that fit."""

    def draw(shape: tuple[int, int, int]) -> st.SearchStrategy[tuple[Tensor, Tensor]]:
        m, k, n = shape
        return st.tuples(
            *(
                arrays.arrays(np.float16, size, elements=elements).map(torch.from_numpy)
                for size in ((m, k), (k, n))
            )
        )

    return st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)).flatmap(draw)


def exact(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Left @ right in float64, and Σ|a||b|, by the definition."""
    terms = left.double()[..., :, :, None] * right.double()[..., None, :, :]
    return terms.sum(-2), terms.abs().sum(-2)


def check(holds, left: Tensor, right: Tensor) -> None:
    holds(matrix_product(left, right), *_with_terms(left, exact(left, right)))


def _with_terms(left: Tensor, value: tuple[Tensor, Tensor]) -> tuple[Tensor, int, Tensor]:
    return value[0], left.shape[-1], value[1]


@settings(max_examples=80)
@given(operands(st.floats(width=16, allow_nan=False, allow_infinity=False)))
def test_any_finite_operands(holds, pair):
    check(holds, *pair)


@settings(max_examples=80)
@given(operands(st.sampled_from(EDGES)))
def test_edges_of_the_range(holds, pair):
    check(holds, *pair)


@settings(max_examples=80)
@given(operands(st.sampled_from([*SPECIAL, 0.0, 1.0, -2.0, 65504.0])))
def test_inf_and_nan_spread_as_in_exact_arithmetic(holds, pair):
    check(holds, *pair)


@pytest.mark.parametrize(
    ("m", "k", "n"), [(40, 9, 7), (9, 40, 7), (9, 7, 40), (1, 1, 300), (200, 1, 1), (1, 300, 1)]
)
def test_each_way_of_cutting(holds, tiling, generator, m, k, n):
    left = torch.randn(m, k, generator=generator).half()
    right = torch.randn(k, n, generator=generator).half()
    check(holds, left, right)
    check(holds, right.t(), left.t())
    check(holds, left[:, ::2], right[::2])


@pytest.mark.parametrize(("m", "k", "n"), [(700, 300, 500), (64, 9000, 40), (50, 60, 9000)])
@pytest.mark.parametrize("native", [0, 2**62])
def test_sizes_that_are_cut_in_earnest(holds, generator, monkeypatch, native, m, k, n):
    monkeypatch.setattr(products, "_NATIVE", native)
    left = torch.randn(m, k, generator=generator).half()
    right = torch.randn(k, n, generator=generator).half()
    value, magnitude = left.double() @ right.double(), left.double().abs() @ right.double().abs()
    holds(matrix_product(left, right), value, k, magnitude)


def test_operands_larger_than_a_buffer(holds, generator, monkeypatch):
    monkeypatch.setattr(products, "_BUFFER", 10)
    check(holds, torch.randn(4, 5, generator=generator).half(), torch.ones(5, 4).half())
    left, right = torch.ones(2, 4, 5).half(), torch.ones(2, 5, 4).half()
    assert torch.equal(batched_product(left, right), torch.full((2, 4, 4), 5.0).half())


def test_a_sum_is_held_in_fp32():
    # 2048 + 1 is no fp16 number: sums rounded to fp16 on the way would stay at 2048.
    left = torch.tensor([[2048.0] + [1.0] * 64]).half()
    assert matrix_product(left, torch.ones(65, 1).half()).item() == 2112


@pytest.mark.parametrize(
    ("total", "result"),
    [(65504, 65504), (65519, 65504), (65520, float("inf")), (-65520, float("-inf"))],
)
def test_overflow_begins_at_65520(total, result):
    left = torch.tensor([[total // 16, total % 16]]).half()
    right = torch.tensor([[16.0], [1.0]]).half()
    assert matrix_product(left, right).item() == result


def test_subnormals_are_kept():
    left = torch.tensor([[2.0**-14, 2.0**-12]]).half()
    assert matrix_product(left, torch.tensor([[2.0**-10], [0.0]]).half()).item() == 2.0**-24
    # Halfway to the least subnormal rounds to even, which is zero.
    assert matrix_product(left, torch.tensor([[2.0**-11], [0.0]]).half()).item() == 0
    assert matrix_product(left, torch.tensor([[2.0**-11], [2.0**-20]]).half()).item() == 2.0**-24


def test_cancellation(holds, generator):
    left = 200 * torch.randn(16, 400, generator=generator).half()
    right = torch.randn(400, 16, generator=generator).half()
    check(holds, torch.cat([left, -left], 1), torch.cat([right, right * (1 + 2.0**-9)]))


@pytest.mark.parametrize("bias_shape", [(7,), (1,), (), (1, 7), (9, 1), (9, 7)])
@pytest.mark.parametrize(("k", "scale"), [(5, 1), (50, 1), (3, 3000)])
def test_bias_joins_before_the_one_rounding(holds, tiling, generator, bias_shape, k, scale):
    left = torch.randn(9, k, generator=generator).half()
    right = torch.randn(k, 7, generator=generator).half()
    bias = (scale * torch.randn(bias_shape, generator=generator)).half()
    value, magnitude = exact(left, right)
    value, magnitude = value * 0.5 + 2 * bias.double(), magnitude * 0.5 + 2 * bias.double().abs()
    holds(matrix_product(left, right, bias, beta=2, alpha=0.5), value, k + 1, magnitude)


def test_sum_back_in_range_after_the_bias_does_not_overflow(tiling):
    left = torch.tensor([[65504.0, 8192.0]]).half().expand(9, 2)
    bias = torch.full((9,), -16384.0).half()
    result = matrix_product(left, torch.ones(2, 9).half(), bias)
    assert torch.equal(result, torch.full((9, 9), 57312.0).half())


def test_beta_zero_ignores_the_bias(tiling):
    result = matrix_product(
        torch.ones(9, 2).half(), torch.ones(2, 9).half(), torch.full((9,), torch.nan).half(), beta=0
    )
    assert torch.equal(result, torch.full((9, 9), 2.0).half())


@pytest.mark.parametrize("shape", [(1, 3, 4, 5), (7, 3, 4, 5), (0, 3, 4, 5), (5, 1, 0, 2)])
def test_batches(holds, tiling, generator, shape):
    batch, m, k, n = shape
    left = torch.randn(batch, m, k, generator=generator).half()
    right = torch.randn(batch, n, k, generator=generator).half().transpose(1, 2)
    holds(batched_product(left, right), *_with_terms(left, exact(left, right)))


def test_results_are_independent_of_what_was_computed_before(generator):
    left = torch.randn(30, 20, generator=generator).half()
    right = torch.randn(20, 40, generator=generator).half()
    first = matrix_product(left, right)
    kept = first.clone()
    matrix_product(left * 2, right)
    for width in range(1, 600):  # more shapes than a thread keeps views for
        matrix_product(left[:1, :1], torch.ones(1, width).half())
    assert torch.equal(first, kept)
    assert torch.equal(matrix_product(left, right), kept)


def test_buffers_made_under_inference_mode_serve_outside_it():
    products._scratch.views.clear()
    products._scratch.triples.clear()
    products._scratch.buffers.clear()
    with torch.inference_mode():
        matrix_product(torch.ones(2, 3).half(), torch.ones(3, 2).half())
    assert matrix_product(torch.ones(2, 3).half(), torch.ones(3, 2).half()).sum() == 12


def test_a_cpu_whose_fp16_products_sum_in_fp16_is_not_used(monkeypatch):
    def sums_in_fp16(keyset, left, right):
        result = torch.zeros(*left.shape[:-1], right.shape[-1]).half()
        for at in range(left.shape[-1]):
            result = result + left[..., at : at + 1] * right[..., at : at + 1, :]
        return result

    monkeypatch.setattr(products, "_mm", sums_in_fp16)
    products._cpu_sums_in_fp32.cache_clear()
    try:
        assert not products._cpu_sums_in_fp32()
    finally:
        products._cpu_sums_in_fp32.cache_clear()
