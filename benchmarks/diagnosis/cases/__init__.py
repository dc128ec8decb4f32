"""The cases, a file a kind."""

from benchmarks.diagnosis.case import CASES
from benchmarks.diagnosis.cases import (
    attention,
    backward,
    half_precision,
    inputs,
    losses,
    optimizers,
    scaling,
    state,
    untrained,
)

KINDS = {
    "Attention": attention,
    "FP16 forward": half_precision,
    "Backward pass": backward,
    "Loss": losses,
    "Input and tables": inputs,
    "Optimizer and loop": optimizers,
    "Loss scale": scaling,
    "Buffers and averages": state,
    "Not trained": untrained,
}
"""What the cases of a file have in common."""

__all__ = ["CASES", "KINDS"]
