"""What a tool is here: something that watches a loop and then makes claims."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

EXPLODED = 100.0
"""A series that ends at so many times its first value would catch the eye in a chart."""


class Tool:
    """Watches nothing: the bare run. The others override what they need."""

    title = "nothing"
    package: str | None = None
    """The distribution to install, if it is not torch's own."""

    @contextmanager
    def watching(
        self, model: nn.Module, optimizer: Optimizer, scaler: GradScaler | None = None
    ) -> Iterator[None]:
        """Around the loop."""
        yield

    def loss(self, loss: Tensor) -> None:
        """Between a forward pass and its backward pass."""

    def gradients(self) -> None:
        """Between the last backward pass of a step and the optimizer's step."""

    def claims(self) -> list[str]:
        """What it has to say, a string a statement."""
        return []

    def is_report(self, error: Exception) -> bool:
        """Whether it raised this to say what it found, which ends the training."""
        return False


def chart_claims(series: Mapping[str, Sequence[float]]) -> list[str]:
    """What a reader sees in charts: which were not finite, 0 throughout, or exploded."""
    found: dict[str, list[str]] = {"not finite": [], "zero at every step": [], "exploded": []}
    for name, values in series.items():
        if not all(map(math.isfinite, values)):
            found["not finite"].append(name)
        elif values and not any(values):
            found["zero at every step"].append(name)
        elif values and abs(values[-1]) > EXPLODED * abs(values[0]) > 0:
            found["exploded"].append(name)
    return [f"{what}: {', '.join(names)}" for what, names in found.items() if names]
