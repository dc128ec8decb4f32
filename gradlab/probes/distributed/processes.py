"""What several processes saw of one step, each with its share of the batch, put together.

Reduced gradients are the same in every process; activations, their gradients and losses are each
process's own. All but the first leave what they saw in the store through which the processes have
found each other, a window at a time, and go on; the first takes it from there. No process waits in
a collective call of gradlab's, so that one which stops, or never attached, stops no other.
"""

import math
import time
import warnings
import zlib
from collections.abc import Container, Sequence
from dataclasses import replace

import torch.distributed as dist
from torch import nn
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.nn.parallel import DistributedDataParallel

from gradlab.errors import GradlabError, GradlabWarning
from gradlab.parallel.spread import is_spread
from gradlab.probes.distributed.message import from_bytes, to_bytes
from gradlab.probes.engine.window import HostStep
from gradlab.probes.selection import clean_name, unwrapped

PATIENCE = 30.0
"""Seconds that the first process waits for another one's window, which ends when its own does."""

HASTE = 5.0
"""The same once an error has ended the training here: the others deliver at once, or never."""

CHUNK = 2**22
"""Bytes of one entry of the store: torch's own closes the connection at more than twice as many."""

_MOST_CHUNKS = 256
"""Of one window: a gigabyte."""


def processes_of(model: nn.Module, group: dist.ProcessGroup | None) -> "Processes | None":
    """Those that train a model together: of the group, of DistributedDataParallel, of FSDP2.

    None where there is one process, or rank 0, which writes, is not among them.

    Raises:
        GradlabError: The group is none.
    """
    if not dist.is_initialized():
        if group is not None:
            raise GradlabError(
                "group: torch.distributed is not initialised: leave it out, or call "
                "init_process_group before."
            )
        return None
    ranks = _ranks(model, group)
    if len(ranks) < 2 or 0 not in ranks:
        return None
    rank = dist.get_rank()
    names = "\n".join(clean_name(name) for name, _ in unwrapped(model).named_parameters())
    store = PrefixStore(
        f"gradlab/{zlib.crc32(names.encode()):08x}", dist.distributed_c10d._get_default_store()
    )
    try:
        # As often as one process attaches to such a model, so do the others; where not, their keys
        # do not meet.
        number = store.add(f"attached/{rank}", 1)
        return Processes(rank, ranks, PrefixStore(str(number), store))
    except RuntimeError:  # MPI's processes have none, nor have those that are made up for a test
        if rank == 0:
            _warn("the processes share no store of torch's")
        return None


def _ranks(model: nn.Module, group: dist.ProcessGroup | None) -> list[int]:
    if group is not None:
        try:
            return dist.get_process_group_ranks(group)
        except Exception as error:
            raise GradlabError(
                f"group = {type(group).__name__}: give a process group of torch.distributed, as "
                "torch.distributed.group.WORLD."
            ) from error
    for module in model.modules():  # a DDP may be wrapped itself, as by torch.compile
        if isinstance(module, DistributedDataParallel):
            return dist.get_process_group_ranks(module.process_group)
    for parameter in model.parameters():
        if is_spread(parameter):
            return [int(rank) for rank in parameter.device_mesh.mesh.flatten()]
    return []


class Processes:
    """This process among those that train one model together.

    Args:
        rank: Its own.
        ranks: Of all of them; 0 is the first.
        store: That they share, for this purpose alone.
    """

    def __init__(self, rank: int, ranks: Sequence[int], store: Store) -> None:
        self._store = store
        self._rank = rank
        self._others = [other for other in ranks if other] if rank == 0 else []
        self._posted = 0
        self._taken = dict.fromkeys(self._others, 0)
        self._last: dict[int, float] = dict.fromkeys(self._others, -1)
        self._own: list[HostStep] = []
        self._theirs: dict[int, list[HostStep]] = {}
        self._met = self._alone = self._hurried = False
        self._store.set(f"here/{rank}", "")

    def together(
        self, steps: Sequence[HostStep], *, shared: Container[int], wait: bool
    ) -> list[list[HostStep]]:
        """Take in this process's steps; those that are whole, as one part a process, own first.

        In all processes but the first, its own steps alone.

        Args:
            steps: That have ended here since the last call.
            shared: The probes whose readings are not the same in every process.
            wait: For the other processes' parts of them; else what they have delivered so far is
                taken, and other steps come with a later call.
        """
        if self._rank:
            self._post([_only(step, shared) for step in steps])
            return [[step] for step in steps]
        self._own.extend(steps)
        if not self._own:
            return []
        if not self._alone:
            try:
                self._take(self._own[-1].step, self._patience() if wait else 0.0)
            except RuntimeError:
                self._go_on_alone("the store that the processes share is gone")
            except ValueError:
                self._go_on_alone("what another process left in torch's store is damaged")
        whole = math.inf if self._alone else min(self._last.values())
        ready = [step for step in self._own if step.step <= whole]
        self._own = self._own[len(ready) :]
        return [[step, *self._theirs.pop(step.step, [])] for step in ready]

    def hurry(self) -> None:
        """An error has ended the training here: wait for the others no longer than `HASTE`."""
        self._hurried = True

    def leave(self) -> None:
        """Nothing more comes from this process."""
        try:
            if self._rank:
                self._store.set(f"ended/{self._rank}", "")
            else:
                self._store.delete_key("here/0")
        except RuntimeError:
            self._alone = True

    def _patience(self) -> float:
        return min(HASTE, PATIENCE) if self._hurried else PATIENCE

    def _post(self, steps: Sequence[HostStep]) -> None:
        if not steps or self._alone:
            return
        try:
            if self._store.check(["here/0"]):
                self._put(f"{self._rank}/{self._posted}", to_bytes(steps))
                self._posted += 1
            else:  # nobody would take it
                self._alone = True
        except RuntimeError:  # who kept the store is gone
            self._alone = True
        except TypeError as error:
            self._go_on_alone(f"a probe's labels cannot be sent to the first process: {error}")

    def _take(self, until: int, patience: float) -> None:
        """Take what the others have delivered, up to a step."""
        if not self._met:
            missing = [r for r in self._others if not self._store.check([f"here/{r}"])]
            if missing:
                self._go_on_alone(
                    "no probes are attached to this model in "
                    f"{_named(missing)}: call attach in every process"
                )
                return
            self._met = True
        deadline = time.monotonic() + patience
        for rank in self._others:
            while self._last[rank] < until and self._arrived(rank, deadline):
                steps = from_bytes(self._get(f"{rank}/{self._taken[rank]}"), rank=rank)
                self._taken[rank] += 1
                for step in steps:
                    self._theirs.setdefault(step.step, []).append(step)
                self._last[rank] = steps[-1].step
        late = [rank for rank in self._others if self._last[rank] < until]
        if late and patience:
            self._go_on_alone(
                f"{_named(late)} delivered nothing for {patience:.0f} s after this one's window"
            )

    def _put(self, key: str, value: bytes) -> None:
        chunks = range(0, len(value), CHUNK)
        for index, at in enumerate(chunks):
            # Bytes are taken too; torch's stub leaves them out.
            self._store.set(f"{key}/{index}", value[at : at + CHUNK])  # type: ignore[arg-type]
        # Last: it says that all are there, and what they add up to.
        self._store.set(key, f"{len(chunks)} {zlib.crc32(value)}")

    def _get(self, key: str) -> bytes:
        """Take a value out of the store.

        Raises:
            ValueError: It is not what was put there.
        """
        count, checksum = map(int, self._store.get(key).split())
        chunks = [f"{key}/{index}" for index in range(min(count, _MOST_CHUNKS + 1))]
        if len(chunks) > _MOST_CHUNKS or not self._store.check(chunks):  # `get` would wait for them
            raise ValueError("not as many chunks as were said to be there")
        value = b"".join(self._store.get(chunk) for chunk in chunks)
        for each in (*chunks, key):
            self._store.delete_key(each)
        if zlib.crc32(value) != checksum:
            raise ValueError("another checksum")
        return value

    def _arrived(self, rank: int, deadline: float) -> bool:
        """Whether another process's next part is there; waits for it until the deadline."""
        key = f"{rank}/{self._taken[rank]}"
        while True:
            has_ended = self._store.check([f"ended/{rank}"])
            if self._store.check([key]):
                return True
            if has_ended:
                self._last[rank] = math.inf
            if has_ended or time.monotonic() >= deadline:
                return False
            time.sleep(0.002)

    def _go_on_alone(self, why: str) -> None:
        self._alone = True
        self.leave()
        _warn(why)


def _warn(why: str) -> None:
    warnings.warn(
        f"{why}. From here on headroom, attention scores and losses are those of the first "
        "process's share of the batch.",
        GradlabWarning,
        stacklevel=3,
    )


def _only(step: HostStep, shared: Container[int]) -> HostStep:
    readings = {index: reading for index, reading in step.readings.items() if index in shared}
    return replace(step, readings=readings)


def _named(ranks: Sequence[int]) -> str:
    return f"process{'es' * (len(ranks) > 1)} {', '.join(map(str, ranks))}"
