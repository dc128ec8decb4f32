"""The processes that train one model together, and what they tell each other."""

import json
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor

Kind: TypeAlias = Literal["none", "ddp", "fsdp"]


@dataclass(frozen=True)
class Ranks:
    """This process among those that train a model together, each on a share of every batch.

    All methods but `share` and `seed` are collective: every process calls them, in the same order.
    A process alone calls them too, and nothing happens. What they tell goes over the host, by gloo,
    and waits for no GPU, but for `mean` and `norm`.

    Attributes:
        rank: This one's number; 0, the first, prints and writes.
        size: How many there are.
        kind: Whether each holds the whole model (`ddp`) or a part of it (`fsdp`).
    """

    rank: int = 0
    size: int = 1
    kind: Kind = "none"

    @property
    def is_first(self) -> bool:
        """Whether this is the one that prints and writes."""
        return self.rank == 0

    def share(self, sequences: int) -> slice:
        """This process's part of a batch of so many sequences."""
        own = sequences // self.size
        return slice(self.rank * own, (self.rank + 1) * own)

    def seed(self, seed: int) -> int:
        """From which dropout is drawn here: one process must not drop what another one does."""
        return (seed + self.rank * 0x9E3779B97F4A7C15) % (1 << 63)

    def any(self, *asked: bool) -> list[bool]:
        """Of each, whether any process asks for it."""
        if self.size == 1:
            return [*asked]
        flags = torch.tensor(asked, dtype=torch.uint8, device="cpu")
        dist.all_reduce(flags, op=dist.ReduceOp.MAX)
        return [bool(flag) for flag in flags.tolist()]

    def mean(self, x: Tensor) -> Tensor:
        """The mean of what the processes have, all of one shape; stays on the device."""
        if self.size == 1:
            return x
        total = x.clone()
        dist.all_reduce(total)
        return total / self.size

    def norm(self, norm: Tensor) -> Tensor:
        """L2 norm of what all processes hold, from that of each one's own; stays on the device.

        With FSDP in float64, as `total_norm` may be in one process and not in another.
        """
        if self.kind != "fsdp":
            return norm
        square = norm.double().square()  # in fp32 it would overflow from 1.8e19 on
        dist.all_reduce(square)
        return square.sqrt()

    def from_first(self, value: Any) -> Any:
        """What the first process gives, as JSON returns it; what others give is ignored."""
        if self.size == 1:
            return value
        content = json.dumps(value).encode() if self.is_first else b""
        length = torch.tensor(len(content), device="cpu")
        dist.broadcast(length, 0)
        told = torch.empty(int(length), dtype=torch.uint8, device="cpu")
        if self.is_first:
            told = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        dist.broadcast(told, 0)
        return json.loads(told.numpy().tobytes())

    def stacked(self, x: Tensor) -> Tensor:
        """What the processes have, each of one shape and on the host: (size, ...); x if alone."""
        if self.size == 1:
            return x
        parts = [torch.empty_like(x) for _ in range(self.size)]
        dist.all_gather(parts, x)
        return torch.stack(parts)


ALONE = Ranks()
"""A process that trains by itself."""
