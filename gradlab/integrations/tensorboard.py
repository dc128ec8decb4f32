"""Probes' rows in TensorBoard."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gradlab.errors import GradlabError
from gradlab.extra import needs_extra
from gradlab.integrations.series import shown

with needs_extra("tensorboard", "gradlab.integrations.tensorboard", "tensorboard"):
    from torch.utils.tensorboard import SummaryWriter


class TensorBoardSink:
    """Shows what probes record in TensorBoard; `gradlab.integrations.series.shown` has the tags.

        gradlab.attach(model, optimizer, sinks=[TensorBoardSink("runs/mine")])

    Args:
        log_dir: Folder of the logs, or the SummaryWriter that the loop has already, which stays
            open in the end.

    Raises:
        GradlabError: From `write` and `close`: the logs cannot be written.
    """

    def __init__(self, log_dir: str | Path | SummaryWriter) -> None:
        self._given = log_dir if isinstance(log_dir, SummaryWriter) else None
        # No Path: the logs may go to gs://…
        self._folder = "" if isinstance(log_dir, SummaryWriter) else os.path.expanduser(log_dir)
        self._writer: SummaryWriter | None = self._given

    def write(self, table: str, columns: Mapping[str, Sequence[Any]]) -> None:
        """Take rows of a table."""
        try:
            if self._writer is None:
                self._writer = SummaryWriter(str(self._folder))
            for one in shown(table, columns):
                for tag, number in one.scalars.items():
                    self._writer.add_scalar(tag, number, one.step)
                for tag, values in one.histograms.items():
                    self._writer.add_histogram(tag, np.array(values), one.step)
                for tag, text in one.texts.items():
                    self._writer.add_text(tag, text, one.step)
        except OSError as error:
            raise GradlabError(f"TensorBoard's logs cannot be written: {error}.") from error

    def close(self) -> None:
        """Write what is left."""
        if self._writer is None:
            return
        try:
            self._writer.flush()
            if self._given is None:
                self._writer.close()
                self._writer = None  # rows of another training open another file
        except OSError as error:
            raise GradlabError(f"TensorBoard's logs cannot be written: {error}.") from error
