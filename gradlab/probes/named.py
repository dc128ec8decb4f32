"""The probes of the built-in loop, by the names of the tables that they fill."""

from collections.abc import Callable, Mapping

from gradlab.config import RecordConfig
from gradlab.probes.attention.probe import AttentionScores
from gradlab.probes.gradient_norms import GradientNorms
from gradlab.probes.headroom.probe import Headroom
from gradlab.probes.learned_scales import LearnedScales
from gradlab.probes.optimizer_health import OptimizerHealth
from gradlab.probes.probe import Probe

_PROBES: Mapping[str, Callable[[RecordConfig], Probe]] = {
    "headroom": lambda record: Headroom(count=1, lead=record.window),
    "grad_norms": lambda _: GradientNorms(),
    "scales": lambda _: LearnedScales(),
    "scores": lambda _: AttentionScores(),
    "optimizer": lambda _: OptimizerHealth(),
}


def named_probes(record: RecordConfig) -> tuple[Probe, ...]:
    """The probes that a run's record asks for, each once."""
    return tuple(_PROBES[name](record) for name in dict.fromkeys(record.probes))
