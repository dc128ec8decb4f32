"""What a record says of the device that a model was trained on."""

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
