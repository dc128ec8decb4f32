"""fairseq's sinusoids, in every dtype and by every way to a device."""

import copy
import math

import pytest
import torch

from gradlab.models.positions import LearnedPositions, SinusoidalPositions


def twin(length: int, d_model: int) -> list[list[float]]:
    """Entry by entry: sines in the first half, cosines in the second, positions from 2."""
    half = d_model // 2
    rows = []
    for position in range(2, length + 2):
        angles = [position / 10000 ** (i / (half - 1)) for i in range(half)]
        rows.append([math.sin(a) for a in angles] + [math.cos(a) for a in angles])
    return rows


@pytest.mark.parametrize(("length", "d_model"), [(5, 4), (64, 64), (2048, 16)])
def test_layout(length: int, d_model: int) -> None:
    expected = torch.tensor(twin(length, d_model), dtype=torch.float64)
    table = SinusoidalPositions(length, d_model).double()(length)
    torch.testing.assert_close(table, expected, rtol=0, atol=1e-11)


def test_the_narrowest_width_has_one_frequency() -> None:
    table = SinusoidalPositions(3, 2)(3)
    expected = torch.tensor([[math.sin(p), math.cos(p)] for p in (2, 3, 4)])
    torch.testing.assert_close(table, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_table_is_the_exact_one_rounded_whatever_it_was_before(dtype: torch.dtype) -> None:
    exact = SinusoidalPositions(32, 16).double().table
    narrow_before = SinusoidalPositions(32, 16).half().to(dtype)
    assert torch.equal(narrow_before.table, exact.to(dtype))


def test_from_the_meta_device_and_through_a_copy() -> None:
    with torch.device("meta"):
        positions = SinusoidalPositions(8, 4)
    assert positions.table.is_meta
    made = copy.deepcopy(positions.to_empty(device="cpu"))
    assert torch.equal(made.table, SinusoidalPositions(8, 4).table)
    assert not made.state_dict()
    assert not list(made.parameters())


def test_learned_positions_are_the_first_rows() -> None:
    positions = LearnedPositions(8, 4)
    assert torch.equal(positions(3), positions.weight[:3])
    assert [name for name, _ in positions.named_parameters()] == ["weight"]
