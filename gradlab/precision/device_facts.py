"""What a record says of the device that a model was trained on."""

from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any

import torch

CUDA_FLAGS = (
    "allow_fp16_accumulation",
    "allow_fp16_reduced_precision_reduction",
    "allow_bf16_reduced_precision_reduction",
)
"""Settings of `torch.backends.cuda.matmul` that let half products be summed in half precision."""


def device_facts(device: torch.device) -> dict[str, Any]:
    """Its type and the threads; of CUDA also its name, and how it multiplies matrices now."""
    facts: dict[str, Any] = {"type": device.type, "threads": torch.get_num_threads()}
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        matmul = torch.backends.cuda.matmul
        facts |= {
            "name": torch.cuda.get_device_name(device),
            "capability": f"{major}.{minor}",
            "cuda": torch.version.cuda,
            "matmul": {name: getattr(matmul, name) for name in (*CUDA_FLAGS, "fp32_precision")},
        }
    return facts


def bits_depend_on(device: Mapping[str, Any]) -> dict[str, Any]:
    """What a computation's bits depend on beside what is computed.

    Args:
        device: As `device_facts` has it.
    """
    return {
        "torch": torch.__version__,
        "gradlab": version("gradlab-diagnostics"),
        "vector instructions": torch.backends.cpu.get_cpu_capability(),
        **device,
    }


def changed_facts(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """What of `bits_depend_on` has changed since, in words: nothing if the bits are the same."""
    for name in dict.fromkeys([*before, *now]):
        was, is_now = before.get(name, "none"), now.get(name, "none")
        if was != is_now:
            yield f"{name} was {was} and is {is_now}"
