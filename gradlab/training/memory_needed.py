"""Whether a run fits into memory: asked before anything is built, and said where it does not."""

import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from gradlab.config import RunConfig
from gradlab.errors import GradlabError
from gradlab.models.cost import training_state_bytes
from gradlab.parallel.ranks import ALONE, Ranks


def check_memory(config: RunConfig, device: torch.device, ranks: Ranks = ALONE) -> None:
    """Refuse a run that cannot fit, by what it takes at the very least.

    A run that passes may still run out of memory: only weights, gradients, the optimizer's state,
    one matrix of logits and the tokens of a step are counted; `memory_in_words` is for that. Of
    several processes each is taken to have a device of its own.

    Raises:
        GradlabError: It takes more than the device has.
    """
    model = config.model
    sequences = config.batch_size // ranks.size * model.max_seq_len
    weights = "fp16-pure" if config.precision.name == "fp16-pure" else "fp32"
    needed = training_state_bytes(model, weights)
    if ranks.kind == "fsdp":
        needed //= ranks.size
    needed += 2 * sequences * max(model.vocab_size, model.d_model, model.d_ff)
    needed += 16 * sequences * config.accumulation
    if config.val_every:
        needed += 8 * config.batch_size * config.val_batches
    check_bytes(needed, device, "the run")


def check_bytes(needed: int, device: torch.device, what: str) -> None:
    """Refuse what takes more bytes than a device has.

    Raises:
        GradlabError: It does.
    """
    there = _memory(device)
    if there is not None and needed > there:
        raise GradlabError(
            f"{what} needs at least {_gigabytes(needed)} of memory and {device.type} has "
            f"{_gigabytes(there)}: choose a smaller model, batch_size or max_seq_len."
        )


@contextmanager
def memory_in_words(
    config: RunConfig, device: torch.device, ranks: Ranks = ALONE
) -> Iterator[None]:
    """Say what to lower where memory runs out within.

    Raises:
        GradlabError: It did.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)  # which hold on to what filled it
        more = "" if ranks.size == 1 else ", or more processes"
        more += " with parallel = 'fsdp'" * (ranks.kind == "ddp")
        raise GradlabError(
            f"{device.type} ran out of memory{_held_by_others(device)}: choose a smaller "
            f"batch_size (it is {config.batch_size}; accumulation makes up for it), max_seq_len "
            f"({config.model.max_seq_len}) or model{more}."
        ) from error


def _held_by_others(device: torch.device) -> str:
    """How much of a GPU other processes hold, if it is a part worth naming."""
    if device.type != "cuda":
        return ""
    try:
        free, total = torch.cuda.mem_get_info(device)
        held = total - free - torch.cuda.memory_reserved(device)
    except RuntimeError:  # there is no memory to ask with
        return ""
    # What CUDA itself takes in a process is not told apart.
    if held < total / 20:
        return ""
    return f", of which other processes hold {_gigabytes(held)} ({_gigabytes(total)} in all)"


def _is_out_of_memory(error: MemoryError | RuntimeError) -> bool:
    """Whether it was memory; torch has a type of its own for most of a GPU's ways to say so."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    said = str(error)
    return any(words in said for words in _OUT_OF_MEMORY)


_OUT_OF_MEMORY = ("DefaultCPUAllocator", "out of memory", "STATUS_ALLOC_FAILED")


def _memory(device: torch.device) -> int | None:
    """Bytes of a device; None where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # Windows
        return None


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count < 1e18 else f"{count / 1e9:.1e} GB"
