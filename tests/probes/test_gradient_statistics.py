import math
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from devices import NoHostReads, never_waiting
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gradlab.probes import gradient_statistics as module
from gradlab.probes.gradient_statistics import gradient_statistics


def twin(gradient: Tensor) -> Tensor:
    """The definition, in float64."""
    if gradient.layout is not torch.strided:
        gradient = gradient.to_dense()
    if gradient.is_complex():
        gradient = gradient.abs()
    values = gradient.double().flatten()
    finite = values[values.isfinite()].abs()
    top = finite.max() if len(finite) else torch.tensor(0.0)
    count = torch.tensor(len(values) - len(finite))
    return torch.stack([x.double() for x in (finite.sum(), (finite**2).sum(), top, count)])


def assert_right(*gradients: Tensor) -> None:
    statistics = gradient_statistics(gradients)
    assert statistics.dtype is torch.float64
    assert statistics.shape == (len(gradients), 4)
    expected = torch.stack([twin(gradient) for gradient in gradients])
    roots = [torch.stack([x[:, 0], x[:, 1].sqrt()]) for x in (statistics, expected)]
    torch.testing.assert_close(*roots, rtol=1e-6, atol=0.0)
    assert torch.equal(statistics[:, 2:], expected[:, 2:])


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


SHAPES = [(), (0,), (1,), (7,), (3, 5), (64, 64), (4097,), (5, 0, 3), (2, 3, 1000), (70, 1000)]
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
LAYOUTS = ["contiguous", "transposed", "strided", "expanded"]


@st.composite
def gradients(draw: st.DrawFn) -> Tensor:
    """A gradient of any shape, dtype, layout and magnitude, with some entries not finite."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    shape = draw(st.sampled_from(SHAPES))
    dtype = draw(st.sampled_from(DTYPES))
    layout = draw(st.sampled_from(LAYOUTS))
    if layout == "strided" and shape:
        gradient = torch.randn(*shape[:-1], 2 * shape[-1], generator=generator)[..., ::2]
    elif layout == "expanded" and shape:
        gradient = torch.randn(shape[-1], generator=generator).expand(shape)
    elif layout == "transposed":
        gradient = torch.randn(shape[::-1], generator=generator).permute(
            tuple(range(len(shape)))[::-1]
        )
    else:
        gradient = torch.randn(shape, generator=generator)
    limit = 3 if dtype is torch.float16 else 37
    gradient = (gradient.double() * 10.0 ** draw(st.integers(-limit, limit))).to(dtype)
    broken = draw(st.sampled_from([0.0, 0.0, 0.01, 0.5, 1.0]))
    if broken:
        value = draw(st.sampled_from([math.inf, -math.inf, math.nan]))
        gradient = gradient.masked_fill(torch.rand(shape, generator=generator) < broken, value)
    return gradient


@settings(max_examples=60)
@given(st.lists(gradients(), min_size=1, max_size=6), st.sampled_from([4096, 65536]))
def test_any_gradients(tensors: list[Tensor], chunk: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_CHUNK", chunk)
        assert_right(*tensors)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("fill", ["normal", 0.3713, 1e38, 1e-25, 1e-45, 0.0])
def test_large_gradients(fill: float | str, count: int) -> None:
    # The same number over and over is what a running sum rounds one way each time.
    gradient = torch.randn(500_000) if fill == "normal" else torch.full((500_000,), float(fill))
    with threads(count):
        assert_right(gradient)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, pytest.param(2, marks=pytest.mark.long)])
@pytest.mark.parametrize("broken", [False, pytest.param(True, marks=pytest.mark.long)])
def test_an_embedding(broken: bool, count: int) -> None:
    gradient = torch.randn(51200, 768, generator=torch.Generator().manual_seed(0))
    if broken:
        gradient[[3, 51199], [767, 0]] = torch.tensor([math.nan, -math.inf])
    with threads(count):
        assert_right(gradient)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sums_of_half_precision_do_not_overflow(dtype: torch.dtype) -> None:
    assert_right(torch.full((70_000,), 60_000.0, dtype=dtype), torch.ones(70_000, dtype=dtype))


def test_double_precision_keeps_its_range_and_digits() -> None:
    gradient = torch.tensor([1e150, 1.0, 1e-300], dtype=torch.float64)
    assert_right(gradient, gradient[1:])
    assert gradient_statistics([1 + 1e-15 * gradient[1:2]])[0, 0] != 1


def test_finite_entries_count_beside_others() -> None:
    nan, inf = math.nan, math.inf
    gradient = torch.tensor([3.0, nan, -4.0, inf, -inf])
    expected = torch.tensor([[7.0, 25.0, 4.0, 3.0], [0.0, 0.0, 0.0, 2.0]], dtype=torch.float64)
    torch.testing.assert_close(gradient_statistics([gradient, gradient[3:]]), expected)


def test_one_bad_entry_in_a_late_chunk() -> None:
    clean, broken = torch.randn(300_000), torch.randn(300_000)
    broken[299_999] = math.inf
    assert_right(clean, broken, clean)
    # What is clean is not read again, and stays the same to the bit.
    assert torch.equal(gradient_statistics([clean, broken])[0], gradient_statistics([clean])[0])


@pytest.mark.parametrize("width", [2, 6000])
def test_sparse_gradients(width: int) -> None:
    embedding = nn.Embedding(9, width, sparse=True)
    outputs = embedding(torch.tensor([3, 0, 3]))
    outputs.backward(torch.randn(3, width))
    gradient = embedding.weight.grad
    assert gradient is not None
    assert not gradient.is_coalesced()
    assert_right(gradient, 0 * gradient)
    assert not gradient.is_coalesced()


def test_complex_gradients() -> None:
    assert_right(torch.tensor([3 + 4j, complex(0, math.inf)]))


def test_no_gradients() -> None:
    assert gradient_statistics([]).shape == (0, 4)
    assert_right(torch.empty(0), torch.empty(3, 0, dtype=torch.float16))


def test_gradients_are_left_alone() -> None:
    tensors = [torch.randn(9), torch.randn(5000), torch.randn(9), torch.tensor([math.inf, 1.0])]
    tensors += [tensor.double() for tensor in tensors]
    before = [tensor.clone() for tensor in tensors]
    gradient_statistics([tensor.requires_grad_() for tensor in tensors])
    for tensor, old in zip(tensors, before, strict=True):
        assert torch.equal(tensor, old)


@pytest.mark.parametrize("value", [1.0, math.nan, 1e38])
def test_no_value_is_read_on_the_host(value: float) -> None:
    with NoHostReads():
        gradient_statistics([torch.full((n,), value) for n in (3, 3, 9000, 200_000)])
    with pytest.raises(AssertionError, match="a value was read"), NoHostReads():
        torch.ones(()).item()


def test_the_meta_device() -> None:
    tensors = [torch.empty(shape, device="meta", dtype=d) for shape in SHAPES for d in DTYPES]
    with NoHostReads():
        statistics = gradient_statistics(tensors)
    assert statistics.is_meta
    assert (statistics.shape, statistics.dtype) == ((len(tensors), 4), torch.float64)


def test_devices_other_than_a_cpu_compute_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = [torch.randn(shape) for shape in SHAPES]
    tensors += [torch.full((9000,), value) for value in (1e38, 1e-38, 0.0, math.nan)]
    monkeypatch.setattr(module, "_on_cpu", module._whole)
    assert_right(*tensors)


@pytest.mark.gpu
def test_on_a_gpu() -> None:
    tensors = [torch.randn(shape, device="cuda") for shape in SHAPES]
    tensors += [torch.full((9000,), value, device="cuda") for value in (1e38, 1e-38, math.nan)]
    with never_waiting():
        statistics = gradient_statistics(tensors)
    assert statistics.is_cuda
    expected = gradient_statistics([tensor.cpu() for tensor in tensors])
    torch.testing.assert_close(statistics.cpu(), expected, rtol=2e-6, atol=0.0)
