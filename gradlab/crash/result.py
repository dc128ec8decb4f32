"""What came out of a kept step that was done again."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gradlab.errors import in_words
from gradlab.runs.reader import Run


@dataclass(frozen=True)
class ReplayedStep:
    """A step that was kept, done again.

    Attributes:
        run: Its record: every probe, down to the operation.
        step: Its number.
        why: It was kept.
        precision: Number formats that it was done in; None for those that it had.
        error: What the model raised this time.
        elsewhere: What is otherwise here than where it was kept and decides its bits.
    """

    run: Run
    step: int
    why: Sequence[str]
    precision: str | None
    error: Exception | None
    elsewhere: Sequence[str]

    @property
    def breaks(self) -> bool:
        """Whether something in it was not finite, or the model raised."""
        steps = self.run.table("steps")
        norms = [math.isfinite(x) for x in steps["grad_norm"].dropna()]
        is_lost = bool(steps["skipped"].any()) or not all(norms)
        return is_lost or self.error is not None or self.first is not None

    @property
    def first(self) -> dict[str, Any] | None:
        """Of what was not finite, the first row of `overflows`, or else of `faults`."""
        for name in ("overflows", "faults"):
            if name in self.run.tables:
                table = self.run.table(name).sort_values("order", kind="stable")
                table = table[table["kind"].isin(["inf", "nan", "both", "cast"])]
                if len(table):
                    return dict(table.iloc[0])
        return None

    @property
    def sentence(self) -> str:
        """What came out."""
        how = f"in {self.precision}" if self.precision else "as it was"
        again = "still breaks" if self.precision else "breaks again"
        start = f"Step {self.step}, done again {how},"
        if self.error is not None:
            return f"{start} {again}: the model raised {in_words(self.error)}.{self._bits}"
        if not self.breaks:
            return f"{start} does not break.{self._bits}"
        return f"{start} {again}{self._where}.{self._bits}"

    def __str__(self) -> str:
        return self.sentence

    @property
    def _where(self) -> str:
        if (row := self.first) is None:
            return ": a gradient was not finite"
        told = {name: x for name, x in row.items() if isinstance(x, str)}
        place = told.get("producer") or told.get("site") or told["name"]
        direction = f" ({told['direction']})" if "direction" in told else ""
        named = " at ".join(told[name] for name in ("function", "source") if name in told)
        return f": first at {place}{direction}{', ' if named else ''}{named}"

    @property
    def _bits(self) -> str:
        if not self.elsewhere:
            return ""
        return f" Bits may differ from those of then: {', '.join(self.elsewhere)}."
