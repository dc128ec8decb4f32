"""Probes: what is measured inside a model while it trains, by hooks that change nothing."""

from gradlab.probes.attention.entropy import AttentionEntropy
from gradlab.probes.attention.probe import AttentionScores
from gradlab.probes.cadence import log_spaced
from gradlab.probes.gradient_norms import GradientNorms
from gradlab.probes.headroom.probe import Headroom
from gradlab.probes.hidden_states import HiddenStates
from gradlab.probes.learned_scales import LearnedScales
from gradlab.probes.optimizer_health import OptimizerHealth
from gradlab.probes.probe import Probe, Reading, Step, Subject
from gradlab.probes.state_health import StateHealth

__all__ = [
    "AttentionEntropy",
    "AttentionScores",
    "GradientNorms",
    "Headroom",
    "HiddenStates",
    "LearnedScales",
    "OptimizerHealth",
    "Probe",
    "Reading",
    "StateHealth",
    "Step",
    "Subject",
    "log_spaced",
]
