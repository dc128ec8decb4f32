"""The studies behind the page: thin models at many depths, and norms side by side."""

from typing import Any

from gradlab.studies import DepthScan, Variants
from gradlab.studies.study import Study

_TWO: dict[str, Any] = {"arch": ("post-ln", "pre-ln"), "seeds": 3}
_SEEN: dict[str, Any] = {"probes": ("grad_norms", "hidden", "entropy")}

STUDIES: dict[str, Study] = {
    "depths": DepthScan(**_TWO, **_SEEN, depth=(2, 6, 12, 24)),
    "bare": DepthScan(
        arch="pre-ln", depth=(2, 6, 12, 24), warmup=0, seeds=3, model={"placement": "none"}
    ),
    "norms": Variants(
        arch=("pre-ln", "pre-rmsnorm", "batch-norm"), variant="base", equal="steps", steps=300
    ),
    "dropped": DepthScan(**_TWO, **_SEEN, depth=24, warmup=0, model={"stochastic_depth": 0.2}),
    "fast": DepthScan(**_TWO, depth=6, lr=3e-3),
    "hundred": DepthScan(depth=100, steps=100),
    "hundreds": DepthScan(arch="pre-ln", depth=200, warmup=0, steps=60, seeds=2),
    "deeper": DepthScan(arch="pre-ln", depth=48, warmup=0, seeds=3),
}
"""In the order in which they are made, each in a folder of its name."""
