"""Joining the other processes that torchrun has started, and ending together with them."""

import contextlib
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store

from gradlab.config import RunConfig
from gradlab.errors import ConfigError, GradlabError, GradlabWarning, in_words
from gradlab.parallel import environment
from gradlab.parallel.ranks import ALONE, Kind, Ranks
from gradlab.runs.same import differences
from gradlab.training.device import resolve_device


@contextmanager
def joined(config: RunConfig) -> Iterator[Ranks]:
    """The processes that train a run together, this one among them, until all have left.

    They are those of torch's default group if there is one, else those that torchrun has started.
    Of what goes wrong within one process tells, and the others end with it. Warnings of gradlab's
    are the first one's alone.

    Raises:
        ConfigError: The run cannot be trained by them, or the environment does not say how they
            meet.
        GradlabError: One of the others has failed, or is gone.
    """
    there = dist.get_world_size() if dist.is_initialized() else environment.processes()
    if (kind := _kind(config, there)) == "none":
        yield ALONE
        return
    _check(config, kind, there)
    is_ours = not dist.is_initialized()
    if is_ours:
        device = resolve_device(device_name(config.device, there))
        environment.check()
        _initialise(device)
    ranks = Ranks(dist.get_rank(), there, kind)
    try:
        with warnings.catch_warnings(), _one_tells(), lost_in_words(ranks):
            if not ranks.is_first:
                warnings.simplefilter("ignore", GradlabWarning)
            _check_same(config, ranks)
            yield ranks
            dist.barrier()  # else another one could read what the first is still writing
    finally:
        if is_ours:
            dist.destroy_process_group()


def device_name(name: str, size: int) -> str:
    """The device of this process by name, where the run has another for each process.

    Raises:
        ConfigError: The run names one GPU for all.
    """
    if size == 1 or name == "cpu":
        return name
    if ":" in name:
        raise ConfigError(
            f"device {name!r} would be that of all {size} processes: give cuda, and each takes its "
            "own."
        )
    own = f"cuda:{environment.local_rank()}"
    return own if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else name


@contextmanager
def lost_in_words(ranks: Ranks) -> Iterator[None]:
    """Say in a sentence that another process is gone, and why if it said so.

    Raises:
        GradlabError: It is.
    """
    try:
        yield
    except RuntimeError as error:
        if ranks.size == 1 or not _is_of_another(error):
            raise
        raise GradlabError(_why_lost(ranks)) from error


def _kind(config: RunConfig, size: int) -> Kind:
    asked = config.parallel
    if asked in ("ddp", "fsdp") and size == 1 and not environment.has_launcher():
        raise ConfigError(
            f"parallel = {asked!r} needs several processes: start the command by torchrun, as "
            "`torchrun --nproc-per-node 2 --no-python gradlab train`, or leave it out."
        )
    if size == 1 or asked == "none":
        return "none"
    return "ddp" if asked == "auto" else asked


def _check(config: RunConfig, kind: Kind, size: int) -> None:
    if not dist.is_available() or not dist.is_gloo_available():
        raise ConfigError("this torch is built without gloo, by which processes train together.")
    if config.batch_size % size:
        below = config.batch_size // size * size
        near = f"{below} or {below + size}" if below else f"{size}"
        raise ConfigError(
            f"batch_size = {config.batch_size} cannot be shared evenly by {size} processes: choose "
            f"{near}, or another number of processes."
        )
    if config.compile:
        raise ConfigError(
            "compile works with one process alone: leave it out, or start without torchrun."
        )
    if config.model.norm == "batchnorm":
        raise ConfigError(
            "norm = 'batchnorm' takes its statistics over a batch, of which each process would see "
            "its share alone: choose another norm, or start without torchrun."
        )
    if kind == "fsdp" and config.model.init == "admin":
        raise ConfigError(
            "init = 'admin' needs a pass through the whole model in each process: choose "
            "parallel = 'ddp', or another init."
        )


def _check_same(config: RunConfig, ranks: Ranks) -> None:
    first = RunConfig.from_mapping(ranks.from_first(config.model_dump(mode="json")))
    if changes := list(differences(first, config)):
        raise ConfigError(
            f"the processes were told to train different runs ({', '.join(changes)}): start all of "
            "them by the same command."
        )


def _initialise(device: torch.device) -> None:
    try:
        if device.type == "cuda":
            torch.cuda.set_device(device)
            dist.init_process_group("cpu:gloo,cuda:nccl", device_id=device)
        else:
            dist.init_process_group("gloo")
    except dist.DistError as error:
        raise GradlabError(
            f"the processes do not meet at {os.environ['MASTER_ADDR']}, port "
            f"{os.environ['MASTER_PORT']}: start all of them by torchrun, on a port that is free "
            f"({in_words(error)})."
        ) from error


@contextmanager
def _one_tells() -> Iterator[None]:
    """Of several processes that fail let one tell of it: the first that does."""
    try:
        yield
    except Exception as error:
        claimed = True
        # Without the store, which may be gone with the process that kept it, each of them tells.
        with contextlib.suppress(RuntimeError):
            store = _store()
            claimed = store.add("told", 1) == 1
            if claimed:
                store.set("why", f"process {dist.get_rank()}: {in_words(error)}")
        if isinstance(error, GradlabError):
            error.told_elsewhere = not claimed
        raise


def _store() -> Store:
    return PrefixStore(
        f"gradlab/ended/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}",
        dist.distributed_c10d._get_default_store(),
    )


def _is_of_another(error: RuntimeError) -> bool:
    """Whether a collective call failed as another process did; torch has a type for NCCL's only."""
    return isinstance(error, dist.DistError) or "gloo/" in str(error)


def _why_lost(ranks: Ranks) -> str:
    with contextlib.suppress(RuntimeError):
        store = _store()
        if store.check(["why"]):
            return f"another process has failed ({store.get('why').decode().rstrip('.')})."
    return (
        f"one of the {ranks.size} processes is gone, killed or cut off: the others have ended with "
        "it. --resume goes on from the newest checkpoint."
    )
