"""The LR stability test: how high a learning rate each architecture survives."""

from itertools import product
from typing import ClassVar

from gradlab.config import RunConfig, ScheduleConfig
from gradlab.models.presets import base_size, size_labels
from gradlab.settings import Names, Numbers, Widths, several
from gradlab.studies.study import Study
from gradlab.studies.table import STABILITY, StudyTable

STEP_CAPS = {"nano": 4000, "micro": 4000, "mini": 3000}
"""Steps after which a run of the stability test is censored; the break is well before."""

LARGE_STEP_CAP = 2000
"""The cap at the paper's own sizes."""


class Stability(Study):
    """The learning rate rises at every step until training destabilises (`run-stability`)."""

    command_name: ClassVar[str] = "run-stability"
    kind: ClassVar[str] = "stability"
    table: ClassVar[StudyTable] = STABILITY

    arch: Names = ("pre-ln", "normformer", "normformer-resscale")
    """An architecture; repeat for more."""
    size: Names = ("nano",)
    """A named size (gradlab sizes lists them); repeat for more. nano-d128 is nano at width 128."""
    width: Widths = ()
    """Take each size at this width; repeat for more."""
    lr_step: Numbers = (5e-5,)
    """Rise of the learning rate at each step; repeat for more: the answer depends on it."""
    steps: int | None = None
    """Cap on steps, where a run that has not broken is censored. By default 4000 at nano and micro,
    3000 at mini, 2000 from 125M on."""
    precision: str = "auto"
    """Number formats: auto, fp32, bf16, fp16, fp16-pure; auto is fp16, emulated on a CPU."""

    def configs(self) -> list[RunConfig]:
        """Sizes × ramps × seeds × architectures, in that order.

        The architectures of one seed stand together, so that a study that is stopped has pairs.
        """
        shared = self.shared("fp16" if self.precision == "auto" else self.precision)
        sizes, ramps = size_labels(self.size, several(self.width)), several(self.lr_step)
        return [
            RunConfig(
                arch=arch,
                size=size,
                model=self.model_of(arch, size),
                schedule=ScheduleConfig(kind="ramp", lr_step=ramp),
                steps=_step_cap(size) if self.steps is None else self.steps,
                seed=seed,
                **shared,
            )
            for size, ramp, seed, arch in product(
                sizes, dict.fromkeys(ramps), self.each_seed(), dict.fromkeys(self.arch)
            )
        ]


def _step_cap(label: str) -> int:
    return STEP_CAPS.get(base_size(label), LARGE_STEP_CAP)
