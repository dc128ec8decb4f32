"""`gradlab.train`: one run, from its config or from the words of the command line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, overload

from gradlab.config import RunConfig
from gradlab.errors import ConfigError
from gradlab.runs.reader import Run
from gradlab.settings import OneRun
from gradlab.training.loop import train as train_config
from gradlab.training.progress import Progress


@overload
def train(
    config: RunConfig,
    out: str | Path | None = None,
    *,
    resume: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> Run: ...


@overload
def train(
    arch: str,
    size: str = "nano",
    *,
    out: str | Path | None = None,
    resume: bool = False,
    progress: Callable[[Progress], None] | None = None,
    **settings: Any,
) -> Run: ...


def train(  # type: ignore[misc]
    run: RunConfig | str,
    size_or_out: str | Path | None = None,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    progress: Callable[[Progress], None] | None = None,
    **settings: Any,
) -> Run:
    """Train one model until its last step or until it has destabilised.

    `gradlab.train("normformer", "nano", lr=1e-3, steps=300)`, or with a whole `RunConfig`. The same
    config gives the same losses to the bit on the same machine, torch and thread count.

    Args:
        run: Everything that decides what the run does, or an architecture by name.
        size_or_out: After an architecture a size by name, as `nano` or `nano-d128`; after a
            config `out`.
        out: Run directory to make; it must not exist or be empty, unless `resume`. None keeps the
            run in memory.
        resume: Go on with the run of this config that lies in `out`, from its newest checkpoint;
            from step 0 if it has none. One that has finished is returned as it is.
        progress: Called after each look at the device: every step on a CPU, every
            `record.window` steps elsewhere.
        **settings: The options of `gradlab train` (`gradlab.settings.OneRun`), as `warmup=100`,
            `precision="fp16"`, `qkv_norm=True`.

    Returns:
        The finished run: its tables, and `.verdict`.

    Raises:
        GradlabError: A setting, corpus, device, folder or checkpoint that cannot be used; a disk
            that is full.
        KeyboardInterrupt: Passed on once everything recorded so far has been written, and a
            checkpoint.
    """
    if isinstance(run, str):
        run = OneRun(**{"arch": run, "size": size_or_out or "nano", **settings}).config()
    elif settings:
        raise ConfigError("a RunConfig says everything: change it with its replace().")
    elif size_or_out is not None and out is not None:
        raise ConfigError(f"out is given twice, as {size_or_out} and as {out}: leave one out.")
    else:
        out = size_or_out if out is None else out
    return train_config(run, out, resume=resume, progress=progress)
