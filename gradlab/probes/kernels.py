"""Triton's kernels for a GPU: many tensors, or all counts of one, read from memory once.

Imported where there is a GPU and Triton works, by `gradlab.probes.fused` alone.
"""

import triton
import triton.language as tl


@triton.jit
def _summed(x, total, squares):
    """Take finite entries in. In fp64 no sum of fp32 numbers or their squares leaves the range."""
    magnitude = tl.abs(x)
    wide = tl.where(magnitude < float("inf"), magnitude, 0.0).to(tl.float64)
    return total + wide, squares + wide * wide


@triton.jit
def _counted(x, smallest, largest, infinite, nan, normal, nonzero):
    magnitude = tl.abs(x)
    finite = magnitude < float("inf")  # a NaN is not below anything
    return (
        tl.maximum(largest, tl.where(finite, magnitude, 0.0)),
        infinite + (magnitude == float("inf")).to(tl.int32),
        nan + (x != x).to(tl.int32),
        normal + (magnitude >= smallest).to(tl.int32),
        nonzero + (x != 0.0).to(tl.int32),
    )


@triton.jit(do_not_specialize=["base"])
def chunk_statistics(
    addresses,
    sizes,
    owners,
    chunks,
    rows,
    base,
    kind: tl.constexpr,
    aligned: tl.constexpr,
    smallest: tl.constexpr,
    length: tl.constexpr,
    block: tl.constexpr,
):
    """Σ|x|, Σx² and max |x| over a chunk's finite entries, and four counts, as `details` has them.

    Args:
        addresses: (n,) int64: where each tensor lies.
        sizes: (n,) int64: its entries.
        owners: (chunks,) int32: the tensor that a chunk is of.
        chunks: (chunks,) int32: which of that tensor's chunks it is.
        rows: (chunks, 7) float64: results.
        base: The first program's chunk.
        kind: Type of the tensors' entries: fp32, fp16 or bf16.
        aligned: Whether each address is a multiple of 16.
        smallest: What counts as normal.
        length: Entries of a chunk.
        block: Entries taken at a time.
    """
    chunk = base + tl.program_id(0)
    owner = tl.load(owners + chunk)
    start = tl.load(chunks + chunk).to(tl.int64) * length
    here = tl.load(addresses + owner).to(tl.pointer_type(kind)) + start
    if aligned:  # as chunks then are, too
        here = tl.multiple_of(here, 16)
    count = tl.minimum(tl.load(sizes + owner) - start, length).to(tl.int32)
    at = tl.arange(0, block)
    total = tl.zeros([block], tl.float64)
    squares = tl.zeros([block], tl.float64)
    largest = tl.zeros([block], tl.float32)
    infinite = tl.zeros([block], tl.int32)
    nan = tl.zeros([block], tl.int32)
    normal = tl.zeros([block], tl.int32)
    nonzero = tl.zeros([block], tl.int32)
    whole = count // block * block
    for begin in range(0, whole, block):  # without a mask, loads are of 16 bytes each
        x = tl.load(here + begin + at).to(tl.float32)
        total, squares = _summed(x, total, squares)
        largest, infinite, nan, normal, nonzero = _counted(
            x, smallest, largest, infinite, nan, normal, nonzero
        )
    x = tl.load(here + whole + at, mask=whole + at < count, other=0.0).to(tl.float32)
    total, squares = _summed(x, total, squares)
    largest, infinite, nan, normal, nonzero = _counted(
        x, smallest, largest, infinite, nan, normal, nonzero
    )
    row = rows + 7 * chunk
    tl.store(row, tl.sum(total, 0))
    tl.store(row + 1, tl.sum(squares, 0))
    tl.store(row + 2, tl.max(largest, 0).to(tl.float64))
    tl.store(row + 3, tl.sum(infinite, 0).to(tl.float64))
    tl.store(row + 4, tl.sum(nan, 0).to(tl.float64))
    tl.store(row + 5, tl.sum(normal, 0).to(tl.float64))
    tl.store(row + 6, tl.sum(nonzero, 0).to(tl.float64))


@triton.jit
def join_chunks(rows, spans, found, width: tl.constexpr, block: tl.constexpr):
    """(chunks, 7) -> (n, 7): each tensor's, in the same order whatever ran first.

    Args:
        rows: What `chunk_statistics` gave.
        spans: (n, 2) int32: each tensor's first chunk, and the end of its chunks.
        found: (n, 7) float64: results.
        width: 7, rounded up to a power of two.
        block: Chunks taken at a time.
    """
    owner = tl.program_id(0)
    first = tl.load(spans + 2 * owner)
    end = tl.load(spans + 2 * owner + 1)
    column = tl.arange(0, width)[None, :]
    at = tl.arange(0, block)[:, None]
    total = tl.zeros([block, width], tl.float64)
    largest = tl.zeros([block, width], tl.float64)
    for begin in range(first, end, block):
        here = (begin + at < end) & (column < 7)
        x = tl.load(rows + 7 * (begin + at) + column, mask=here, other=0.0)
        total += x
        largest = tl.maximum(largest, x)
    columns = tl.arange(0, width)
    joined = tl.where(columns == 2, tl.max(largest, 0), tl.sum(total, 0))
    tl.store(found + 7 * owner + columns, joined, mask=columns < 7)


@triton.jit(do_not_specialize=["size"])
def count_entries(
    tensor, size, row, smallest: tl.constexpr, length: tl.constexpr, block: tl.constexpr
):
    """What `gradlab.probes.statistics.details` gives, in one read.

    Programs add whole numbers to the same five, and a sum of those has one value in any order.

    Args:
        tensor: Its entries, without gaps.
        size: How many.
        row: (5,) float64, zeros: results.
        smallest: What counts as normal.
        length: Entries of a program.
        block: Entries taken at a time.
    """
    start = tl.program_id(0).to(tl.int64) * length
    count = tl.minimum(size - start, length).to(tl.int32)
    here = tensor + start
    at = tl.arange(0, block)
    wide: tl.constexpr = tl.float64 if tensor.dtype.element_ty == tl.float64 else tl.float32
    largest = tl.zeros([block], wide)
    infinite = tl.zeros([block], tl.int32)
    nan = tl.zeros([block], tl.int32)
    normal = tl.zeros([block], tl.int32)
    nonzero = tl.zeros([block], tl.int32)
    whole = count // block * block
    for begin in range(0, whole, block):
        x = tl.load(here + begin + at).to(wide)
        largest, infinite, nan, normal, nonzero = _counted(
            x, smallest, largest, infinite, nan, normal, nonzero
        )
    x = tl.load(here + whole + at, mask=whole + at < count, other=0.0).to(wide)
    largest, infinite, nan, normal, nonzero = _counted(
        x, smallest, largest, infinite, nan, normal, nonzero
    )
    # The bits of numbers that are not negative have the numbers' order.
    bits = tl.max(largest, 0).to(tl.float64).to(tl.int64, bitcast=True)
    tl.atomic_max(row.to(tl.pointer_type(tl.int64), bitcast=True), bits)
    tl.atomic_add(row + 1, tl.sum(infinite, 0).to(tl.float64))
    tl.atomic_add(row + 2, tl.sum(nan, 0).to(tl.float64))
    tl.atomic_add(row + 3, tl.sum(normal, 0).to(tl.float64))
    tl.atomic_add(row + 4, tl.sum(nonzero, 0).to(tl.float64))
