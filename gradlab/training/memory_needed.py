"""Whether a run can fit into memory at all, asked before anything is built."""

import os

import torch

from gradlab.config import RunConfig
from gradlab.errors import GradlabError
from gradlab.models.cost import parameter_count

_BYTES_PER_PARAMETER = 2 + 2
"""Weights and gradients in their smallest format: less than any run takes."""


def check_memory(config: RunConfig, device: torch.device) -> None:
    """Refuse a run that cannot fit, by what it takes at the very least.

    A run that passes may still run out of memory: only weights, gradients, one matrix of logits and
    the tokens of a step are counted.

    Raises:
        GradlabError: It takes more than the device has.
    """
    model = config.model
    sequences = config.batch_size * model.max_seq_len
    needed = _BYTES_PER_PARAMETER * parameter_count(model)
    needed += 2 * sequences * max(model.vocab_size, model.d_model, model.d_ff)
    needed += 16 * sequences * config.accumulation
    if config.val_every:
        needed += 8 * config.batch_size * config.val_batches
    there = _memory(device)
    if there is not None and needed > there:
        raise GradlabError(
            f"the run needs at least {_gigabytes(needed)} of memory and {device.type} has "
            f"{_gigabytes(there)}: choose a smaller model, batch_size or max_seq_len."
        )


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
