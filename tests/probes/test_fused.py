"""Looks by Triton's kernels: the same numbers as torch's, in a launch or two."""

import math

import pytest
import torch
from devices import never_waiting
from torch import Tensor

from gradlab.probes import fused, gradient_statistics, statistics


def test_there_are_none_on_a_cpu() -> None:
    assert fused.kernels_of(torch.device("cpu")) is None
    assert fused.statistics([torch.ones(3)]) is None
    assert fused.details(torch.ones(3)) is None


def test_every_entry_is_taken_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "_CHUNK", 10)
    sizes = (7, 0, 10, 31, 1, 20)
    types = (torch.float32, torch.float16, torch.float16, torch.float32, torch.bfloat16) * 2
    layout = fused._layout(sizes, types[: len(sizes)], torch.device("cpu"))
    taken = list(zip(layout.owners.tolist(), layout.chunks.tolist(), strict=True))
    expected = {(i, chunk) for i, size in enumerate(sizes) for chunk in range(-(-size // 10))}
    assert len(taken) == len(expected)
    assert set(taken) == expected
    for owner, (first, end) in enumerate(layout.spans.tolist()):  # what `join_chunks` adds up
        assert [of for of, _ in taken[first:end]] == [owner] * -(-sizes[owner] // 10)
    covered = [index for _, base, count in layout.parts for index in range(base, base + count)]
    assert covered == list(range(len(taken)))
    for name, base, count in layout.parts:
        for owner, _ in taken[base : base + count]:
            assert str(types[owner]) == f"torch.{name}"


def tensors() -> list[Tensor]:
    generator = torch.Generator("cuda").manual_seed(0)
    found: list[Tensor] = [torch.empty(0, device="cuda"), torch.zeros(70, device="cuda")]
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        for shape in ((), (1,), (2047,), (2048,), (65536,), (65537,), (3, 50_000), (700, 1000)):
            x = torch.randn(shape, generator=generator, device="cuda").to(dtype)
            found += [x, x.t() if x.dim() == 2 else x.clone()]
        broken = torch.randn(200_000, generator=generator, device="cuda").to(dtype)
        broken[::9999], broken[5:199_999:7777], broken[7] = math.nan, -math.inf, math.inf
        found += [broken, broken[1:], broken.view(-1, 2)[:, 0]]
    found += [torch.full((300_000,), v, device="cuda") for v in (0.3713, 1e38, 1e-38, 1e-45, 3e-5)]
    return found


@pytest.mark.gpu
def test_a_gpu_has_them() -> None:
    assert fused.kernels_of(torch.device("cuda", torch.cuda.current_device())) is not None


@pytest.mark.gpu
def test_statistics_on_a_gpu_are_torch_s_on_a_cpu() -> None:
    given = tensors()
    fused.statistics(given)  # compiles
    with never_waiting():
        found = fused.statistics(given)
        rows = gradient_statistics.gradient_statistics(given)
    assert found is not None
    expected = gradient_statistics.gradient_statistics([x.cpu() for x in given])
    torch.testing.assert_close(rows.cpu(), expected, rtol=1e-6, atol=0.0)
    torch.testing.assert_close(rows.cpu()[:, 2:], expected[:, 2:], rtol=0.0, atol=0.0)
    counted = [
        statistics.details(x) if x.numel() else torch.zeros(5) for x in map(Tensor.cpu, given)
    ]
    assert torch.equal(found[:, 2:].cpu(), torch.stack([x.double() for x in counted]))


@pytest.mark.gpu
def test_an_embedding_on_a_gpu_in_any_memory() -> None:
    gradient = torch.randn(51200, 768, device="cuda")
    for x in (gradient, gradient.bfloat16(), gradient.view(-1)[1:]):
        found = gradient_statistics.gradient_statistics([x])[0].cpu()
        wide = x.double()
        expected = torch.stack([wide.abs().sum(), (wide * wide).sum(), wide.abs().max()]).cpu()
        torch.testing.assert_close(found[:3], expected, rtol=1e-6, atol=0.0)
        assert found[3] == 0
        again = gradient_statistics.gradient_statistics([x])[0].cpu()
        assert torch.equal(again, found)  # to the bit


@pytest.mark.gpu
def test_counts_on_a_gpu_are_torch_s_on_a_cpu() -> None:
    given = [x for x in tensors() if x.numel()]
    given += [x.double() for x in given]
    statistics.details(given[0])
    with never_waiting():
        found = [statistics.details(x) for x in given]
    for x, one in zip(given, found, strict=True):
        assert torch.equal(one.cpu(), statistics.details(x.cpu())), (x.shape, x.dtype)
