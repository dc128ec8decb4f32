"""The last steps without an event: what they showed is written if they turn out to lead to one."""

from collections import deque
from collections.abc import Sequence

from gradlab.probes.headroom.rows import ReadStep, Rows, rows_of


class Lead:
    """Steps whose rows are held back.

    Args:
        most: How many; older ones are forgotten.
    """

    def __init__(self, most: int) -> None:
        self._steps: deque[ReadStep | Rows] = deque(maxlen=most)

    def clear(self) -> None:
        """Forget them."""
        self._steps.clear()

    def add(self, step: ReadStep) -> None:
        """Hold back one more, as it was read: most are never written."""
        self._steps.append(step)

    def taken(self) -> list[Rows]:
        """The rows of each, which are held back no longer."""
        rows = self.state()
        self.clear()
        return rows

    def state(self) -> list[Rows]:
        """The rows of each."""
        return [rows_of(x.sites) if isinstance(x, ReadStep) else x for x in self._steps]

    def restore(self, rows: Sequence[Rows]) -> None:
        """Hold back what `state` gave."""
        self._steps.extend(rows)
