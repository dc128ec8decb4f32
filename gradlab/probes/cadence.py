"""When a probe looks: functions of the step."""

import math
from collections.abc import Callable
from typing import TypeAlias

from gradlab.errors import GradlabError

Cadence: TypeAlias = int | Callable[[int], bool]
"""Every n-th step, or a function of the 0-based step."""


def due(cadence: Cadence) -> Callable[[int], bool]:
    """The cadence as a function of the step.

    Raises:
        GradlabError: It is a number under 1, or neither a number nor a function.
    """
    if isinstance(cadence, bool) or not isinstance(cadence, int):
        if not callable(cadence):
            raise GradlabError(
                f"every = {cadence!r}: give a number of steps, or a function of the step."
            )
        return cadence
    if cadence < 1:
        raise GradlabError(f"every = {cadence}: a probe can look at every step (1) or less often.")
    return lambda step: step % cadence == 0


def log_spaced(per_decade: int = 10) -> Callable[[int], bool]:
    """Step 0, then steps evenly spaced on a logarithmic axis.

    Args:
        per_decade: How many between two powers of ten, as far as there are whole numbers.

    >>> [step for step in range(200) if log_spaced(4)(step)]
    [0, 1, 2, 3, 6, 10, 18, 32, 56, 100, 178]
    """
    if per_decade < 1:
        raise GradlabError(f"per_decade = {per_decade}: at least one step a decade.")

    def is_due(step: int) -> bool:
        if step == 0:
            return True
        nearest = round(per_decade * math.log10(step))
        near = (nearest - 1, nearest, nearest + 1)
        return any(round(10 ** (k / per_decade)) == step for k in near)

    return is_due
