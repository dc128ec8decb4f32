"""The LR stability test from Python: which of two architectures survives a higher learning rate.

python examples/study.py

It takes seconds: a tiny size, and a learning rate that rises fast. Leave out the overrides for the
test at nano, which takes some minutes.
"""

import tempfile
from pathlib import Path

import gradlab


def main(folder: Path) -> None:
    study = gradlab.studies.Stability(
        arch=["pre-ln", "normformer"],
        size="nano-d16",
        lr_step=0.1,  # 2e-4 is usual
        seeds=1,
        steps=60,
        model={"n_layers": 2, "max_seq_len": 16},
    )
    result = gradlab.run_study(study, folder, jobs=1)  # resume=True goes on with one
    print(result.table[["arch", "seed", "reason", "step", "lr", "first_overflow"]])
    for run in result.runs:
        print(run.config.arch, run.verdict.reason, run.path)
    print(result.failed or "no run failed")
    print("The same from a shell:", study.command().line)

    again = gradlab.load_study(folder)  # another day
    assert len(again.runs) == 2


if __name__ == "__main__":  # the runs are processes of their own
    main(Path(tempfile.mkdtemp()) / "study")
