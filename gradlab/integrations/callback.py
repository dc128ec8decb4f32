"""What the trainers' callbacks share: attach at each training's start, close at its end."""

import itertools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from gradlab.config import Events
from gradlab.errors import GradlabError
from gradlab.paths import as_path
from gradlab.probes.attach import Probes, Sink, attach
from gradlab.probes.cadence import Cadence
from gradlab.probes.probe import Probe


class AttachingCallback:
    """`attach` put off until a trainer has its model and optimizers, as often as it trains.

    Args:
        out, every, events, probes, memory, sinks, meta, window, keep, keep_steps: As `attach` takes
            them.
    """

    def __init__(
        self,
        out: str | Path | None = None,
        *,
        every: Cadence = 1,
        events: Events = "exact",
        probes: Iterable[Probe] | None = None,
        memory: bool | None = None,
        sinks: Iterable[Sink] = (),
        meta: Mapping[str, Any] | None = None,
        window: int = 50,
        keep: str | Path | None = None,
        keep_steps: int = 1,
    ) -> None:
        self._out, self._keep = out, keep
        self._options: dict[str, Any] = {
            "every": every,
            "events": events,
            "probes": None if probes is None else tuple(probes),
            "memory": memory,
            "sinks": tuple(sinks),
            "meta": meta,
            "window": window,
            "keep_steps": keep_steps,
        }
        self._probes: Probes | None = None

    @property
    def probes(self) -> Probes:
        """The probes at work, or after a training those that were.

        Raises:
            GradlabError: No training has begun.
        """
        if self._probes is None:
            raise GradlabError(
                "nothing is recorded yet: the probes are attached as training begins."
            )
        return self._probes

    def _begin(
        self,
        model: nn.Module,
        optimizers: Iterable[Optimizer],
        scaler: GradScaler | None,
        first_step: int,
    ) -> None:
        """Attach; a training that was left without its end is closed before.

        Args:
            model: To look at.
            optimizers: That train it.
            scaler: That scales the loss, if there is one.
            first_step: Steps done before: above 0 if the training is resumed.
        """
        is_first = self._probes is None
        self._close()
        self._probes = attach(
            model,
            optimizers,
            scaler=scaler,
            **self._options,
            out=self._out and free_folder(as_path(self._out), first_step, is_first),
            keep=self._keep and free_folder(as_path(self._keep), first_step, is_first),
            first_step=first_step,
            # A trainer hands over the model without the wrapper that would show it.
            group=dist.group.WORLD if dist.is_initialized() else None,
        )

    def _close(self, error: BaseException | None = None) -> None:
        """Close, if there is something to close."""
        if self._probes is not None:
            self._probes.close(error)


def free_folder(out: Path, first_step: int, is_first: bool) -> Path:
    """Where a training is recorded: `out`, or a folder beside it for one that goes on.

    A training resumed at step 500 is recorded in `out-from-500`; where that is taken, and for a
    second training with the same callback, in the first of `-2`, `-3`, … that is free. For the
    first training from step 0 it is `out`, free or not.
    """
    if first_step == 0 and is_first:
        return out
    base = f"{out.name}-from-{first_step}" if first_step else out.name
    names = itertools.chain([base], (f"{base}-{n}" for n in itertools.count(2)))
    return next(path for name in names if not (path := out.with_name(name)).exists())
