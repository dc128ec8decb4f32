"""Probes' rows in Weights & Biases."""

from collections.abc import Mapping, Sequence
from typing import Any

from gradlab.errors import GradlabError
from gradlab.extra import needs_extra
from gradlab.integrations.series import SECTIONS, shown

with needs_extra("wandb", "gradlab.integrations.wandb", "wandb"):
    import wandb

STEP = "gradlab/step"
"""The axis of gradlab's series: rows come later than the run's own of the same step."""


class WandbSink:
    """Shows what probes record in a run; `gradlab.integrations.series.shown` has the tags.

        run = wandb.init(...)
        gradlab.attach(model, optimizer, sinks=[WandbSink(run)])

    Series are drawn over `gradlab/step`, so that neither disturbs the steps of the other.

    Args:
        run: From `wandb.init`; it stays open in the end.

    Raises:
        GradlabError: From `write`: W&B does not take the rows.
    """

    def __init__(self, run: "wandb.Run") -> None:
        self._run = run
        self._sections: set[str] = set()
        run.define_metric(STEP, hidden=True)
        for section in SECTIONS:
            self._define(section)

    def write(self, table: str, columns: Mapping[str, Sequence[Any]]) -> None:
        """Take rows of a table."""
        try:
            for one in shown(table, columns):
                histograms = {tag: wandb.Histogram(v) for tag, v in one.histograms.items()}
                logged = {**one.scalars, **histograms, **one.texts}
                for tag in logged:
                    self._define(tag.partition("/")[0])
                self._run.log({STEP: one.step, **logged})
        except (OSError, wandb.Error) as error:
            raise GradlabError(f"W&B does not take the rows: {error}.") from error

    def close(self) -> None:
        """The run is the user's to finish."""

    def _define(self, section: str) -> None:
        if section not in self._sections:
            self._sections.add(section)
            self._run.define_metric(f"{section}/*", step_metric=STEP)
