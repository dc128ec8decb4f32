"""The last steps without an event: what they showed is written if they turn out to lead to one."""

from collections import deque
from collections.abc import Sequence

from gradlab.probes.headroom.rows import Rows, rows_of
from gradlab.probes.sites import SiteStep


class Lead:
    """Steps whose rows are held back.

    Args:
        most: How many; older ones are forgotten.
    """

    def __init__(self, most: int) -> None:
        self._steps: deque[SiteStep | Rows] = deque(maxlen=most)

    def clear(self) -> None:
        """Forget them."""
        self._steps.clear()

    def add(self, sites: SiteStep) -> None:
        """Hold back one more."""
        self._steps.append(sites)

    def taken(self) -> list[SiteStep | Rows]:
        """All of them, which are held back no longer."""
        steps = list(self._steps)
        self.clear()
        return steps

    def state(self) -> list[Rows]:
        """The rows of each, made only now: most are never written."""
        return [rows_of(step) for step in self._steps]

    def restore(self, rows: Sequence[Rows]) -> None:
        """Hold back what `state` gave."""
        self._steps.extend(rows)
