"""Steps that have ended, until their rows are made: copied from the device, put together."""

import warnings
from collections.abc import Iterator, Sequence

from gradlab.errors import GradlabWarning
from gradlab.probes.distributed.processes import Processes
from gradlab.probes.engine.window import (
    HostStep,
    PendingStep,
    RecordedStep,
    completed,
    has_numbers,
    recorded,
    to_host,
)
from gradlab.probes.probe import Probe


class Ended:
    """The steps that have ended in this process.

    Args:
        probes: In the order of their readings.
        processes: That train the model together, if there are several.
    """

    def __init__(self, probes: Sequence[Probe], processes: Processes | None) -> None:
        self._probes, self._processes = probes, processes
        # What a reading from several processes says is not the same in each of them.
        self._shared = {i for i, p in enumerate(probes) if type(p).joined is not Probe.joined}
        self._pending: list[PendingStep] = []
        self._waiting: dict[int, PendingStep] = {}
        self._meta_said = False

    def add(self, step: PendingStep) -> None:
        """One more has ended."""
        self._pending.append(step)

    def collect(self, *, wait: bool) -> Iterator[RecordedStep]:
        """Those since the last call, as `LoopFollower.collect` has it."""
        pending, self._pending = self._pending, []
        known = [step for step in pending if has_numbers(step)]
        if len(known) < len(pending) and not self._meta_said:
            self._meta_said = True
            warnings.warn(
                "tensors on the meta device hold no numbers: what they show is not recorded.",
                GradlabWarning,
                stacklevel=2,
            )
        steps = to_host(known, self._probes)
        parts: list[Sequence[HostStep]] = [[step] for step in steps]
        if self._processes is not None:
            # Until the others have said whether they saw an event there.
            self._waiting |= {step.step: step for step in known}
            together = self._processes.together(steps, shared=self._shared, wait=wait)
            parts = [completed(part, self._waiting.pop(part[0].step)) for part in together]
        return (recorded(part, self._probes) for part in parts)
