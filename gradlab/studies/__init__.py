"""Studies of several runs: which runs each is, and making them (`gradlab.run_study`).

Each is a frozen config with the options of its command: `Stability(lr_step=2e-4, seeds=5)`.
"""

from gradlab.studies.claims import Claims
from gradlab.studies.depth_scan import DepthScan
from gradlab.studies.gradients import Gradients
from gradlab.studies.league import League
from gradlab.studies.limit import Limit
from gradlab.studies.losses import Ablation, LrSearch
from gradlab.studies.stability import Stability
from gradlab.studies.variants import Variants

__all__ = [
    "Ablation",
    "Claims",
    "DepthScan",
    "Gradients",
    "League",
    "Limit",
    "LrSearch",
    "Stability",
    "Variants",
]
