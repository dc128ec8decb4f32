"""Keeps a step in which something was not finite, before the optimizer has changed anything."""

import math
import time
import warnings
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.utils.hooks import RemovableHandle

from gradlab.crash.content import buffers_of, content
from gradlab.crash.folder import KeptSteps
from gradlab.errors import GradlabError, GradlabWarning, in_words
from gradlab.probes.operations.calls import Calls, called_modules, is_new_pass
from gradlab.probes.probe import Subject
from gradlab.probes.sites import in_backward, version_of

_SHARE = 0.01
"""Of a training's time that keeping steps takes at most."""


@dataclass(frozen=True)
class Signs:
    """What tells of a step that is bad, read on the host.

    Attributes:
        gradient: Whether a gradient was not finite.
        losses: As the loop told of them.
        inside: Whether a tensor in the passes was not, as far as that is known without a read.
        error: That ended the loop within the step.
    """

    gradient: bool
    losses: Sequence[float]
    inside: bool
    error: BaseException | None = None

    @property
    def why(self) -> list[str]:
        """The signs there are, in words."""
        found = {
            "a gradient was not finite": self.gradient,
            "a loss was not finite": not all(map(math.isfinite, self.losses)),
            "an activation or its gradient was not finite": self.inside,
        }
        words = [words for words, is_so in found.items() if is_so]
        if isinstance(self.error, Exception):  # Ctrl-C says nothing of the step
            words.append(f"the loop raised {in_words(self.error)}")
        return words


class Keeper:
    """Keeps the first of each streak of bad steps: the newest few, in a folder.

    The step's calls of the model, with what arrived at their outputs, are held by reference until
    the step is over; buffers that the passes may change are copied before the first.

    Args:
        folder: For them.
        subject: The model and what trains it.
        scaler: That scales the loss, if there is one.
        most: Steps that are kept at most.

    Raises:
        GradlabError: There is no optimizer, several processes train the model, or the folder cannot
            be used.
    """

    def __init__(
        self, folder: Path, subject: Subject, scaler: GradScaler | None, *, most: int
    ) -> None:
        if not subject.optimizers:
            raise GradlabError(
                "keep= looks at a step before the optimizer changes anything: give attach the "
                "optimizer."
            )
        if dist.is_initialized() and dist.get_world_size() > 1:
            raise GradlabError(
                "keep= keeps what one process does: a step of several cannot be made again by one "
                "alone. Leave it out."
            )
        self._subject, self._scaler = subject, scaler
        self._calls = Calls(subject.model)
        self._folder = KeptSteps(folder, most)
        self._buffers: dict[str, tuple[Tensor, int, Tensor]] = {}
        self._is_done = False
        self._kept_now = False
        self._last_end, self._took = -math.inf, 0.0
        self._said: set[str] = set()

    def hooks(self) -> Iterable[RemovableHandle]:
        """Hooks on the model that keep its calls."""
        for module in called_modules(self._subject.model):
            yield module.register_forward_pre_hook(self._on_call)
        yield from self._calls.hooks()

    @property
    def told(self) -> dict[str, Any]:
        """What `run.json` says of it: the folder and the steps that are in it, if some are."""
        steps = self._folder.steps
        return {"kept": {"folder": str(self._folder.path), "steps": steps}} if steps else {}

    def begin(self) -> None:
        """A step starts."""
        self._calls.begin()

    def ended(self, stepped: Container[int]) -> None:
        """The step is over. If it was kept: which of several optimizers it was for.

        Args:
            stepped: The ids of those that stepped, or skipped.
        """
        was_kept, self._kept_now = self._kept_now, False
        if not was_kept or len(self._subject.optimizers) == 1:
            return
        of = [i for i, one in enumerate(self._subject.optimizers) if id(one) in stepped]
        try:
            self._folder.tell_of_newest({"stepped": of})
        except GradlabError as error:
            self._say(in_words(error).rstrip("."))

    def close(self) -> None:
        """Hold nothing, and give the folder up."""
        self._calls.end()
        self._folder.close()

    def look(self, step: int, signs: Signs, *, reached: bool) -> None:
        """A step's passes are over, and nothing is changed yet: keep it if it is to be kept.

        Args:
            step: Its number.
            signs: What was found of it.
            reached: Whether it came to the optimizer.
        """
        if not signs.why:
            self._is_done = False
        if self._is_done or not signs.why or not (reached or self._calls.made):
            return
        is_soon = time.perf_counter() - self._last_end < self._took / _SHARE
        # What a scaler skips comes again as it was; without one, the parameters are lost by then.
        self._is_done = not is_soon or self._scaler is None
        if is_soon and signs.error is None:
            return
        began = time.perf_counter()
        try:
            self._keep(step, signs, reached=reached)
        except Exception as error:  # what ran out of memory may raise anything
            self._say(in_words(error).rstrip("."))
        self._last_end = time.perf_counter()
        self._took = self._last_end - began

    def _keep(self, step: int, signs: Signs, *, reached: bool) -> None:
        """Keep it.

        Raises:
            GradlabError: There is nothing to be kept, something that cannot be, or no space left.
        """
        calls = self._calls.made
        if signs.error is None:
            calls = tuple(call for call in calls if call.returned)
        if in_backward():
            raise GradlabError("its optimizers step within the backward pass")
        if not calls:
            raise GradlabError("there was no call of the model before the optimizer's step")
        if not all(call.is_as_given for call in calls):
            raise GradlabError("the loop has changed in place what it gave the model")
        kept = content(
            step,
            signs.why,
            self._subject,
            calls,
            buffers={name: copied for name, (_, _, copied) in self._buffers.items()},
            scaler=self._scaler,
            losses=signs.losses,
            reached=reached,
        )
        model = type(self._subject.model).__name__
        told = {"why": signs.why, "model": model, "calls": len(calls)}
        self._folder.add(step, kept, told)
        self._kept_now = True

    def _on_call(self, module: nn.Module, args: Any) -> None:
        if not is_new_pass() or self._calls.made:
            return
        before, self._buffers = self._buffers, {}
        for name, x in buffers_of(self._subject.model).items():
            known = before.get(name)
            # A mask is never changed; statistics of batches are, without torch counting it.
            if known and known[0] is x and known[1] == version_of(x) and not x.is_floating_point():
                self._buffers[name] = known
            else:
                with torch.no_grad():
                    self._buffers[name] = x, version_of(x), x.clone()

    def _say(self, reason: str) -> None:
        """That a step could not be kept, once for each reason."""
        if reason not in self._said:
            self._said.add(reason)
            warnings.warn(
                f"a bad step could not be kept in {self._folder.path} ({reason}): "
                "training goes on.",
                GradlabWarning,
                stacklevel=4,
            )
