"""gradlab's own probes by name, but for what they measure (`gradlab.probes`)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

ProbeName = Literal[
    "headroom", "grad_norms", "scales", "scores", "optimizer", "hidden", "entropy", "states"
]


@dataclass(frozen=True)
class ProbeFacts:
    """One of gradlab's probes.

    Attributes:
        kind: Its class.
        tables: Those that it fills, its own first.
        arguments: What the built-in loop makes it with.
    """

    kind: str
    tables: tuple[str, ...]
    arguments: Mapping[str, Any] = field(default_factory=dict)


PROBES: Mapping[ProbeName, ProbeFacts] = {
    "headroom": ProbeFacts("Headroom", ("headroom", "overflows", "faults"), {"count": 1}),
    "grad_norms": ProbeFacts("GradientNorms", ("grad_norms",)),
    "scales": ProbeFacts("LearnedScales", ("scales",)),
    "scores": ProbeFacts("AttentionScores", ("scores",)),
    "optimizer": ProbeFacts("OptimizerHealth", ("optimizer",)),
    "hidden": ProbeFacts("HiddenStates", ("hidden",)),
    "entropy": ProbeFacts("AttentionEntropy", ("entropy",)),
    "states": ProbeFacts("StateHealth", ("faults",)),
}
"""The probes that the built-in loop can be told to use."""
