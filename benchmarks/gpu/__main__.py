"""Everything that needs a GPU, in stages, each kept when it is done and skipped the next time.

    python -m benchmarks.gpu                              # all, in at most 8 minutes
    python -m benchmarks.gpu --only stability --minutes 30
    python -m benchmarks.gpu --device cpu                 # the same code at a tiny size

What a stage's commands print is in its `log.txt` under --out, beside the runs that they make;
`done.json` names the card. All is packed into one archive beside the folder.
"""

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import torch

from benchmarks.gpu.stages import Stage, stages
from gradlab.precision.device_facts import device_facts
from gradlab.runs.document import versions

ROOT = Path(__file__).parents[2]
PROGRAMS = {"python": ("-u",), "gradlab": ("-uc", "from gradlab.cli.start import run; run()")}
MOST_BYTES = 16 * 2**20
SECONDS_TO_SAVE = 20
ON_A_CPU = 10
"""Times the limit, which is of a card, that a tiny trial on a CPU may take."""
LINES = 40
"""Of the log of a stage that did not end are shown."""


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    names = [stage.name for stage in stages("cuda", small=False)]
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N, or cpu for a tiny trial")
    parser.add_argument("--tiny", action="store_true", help="a trial of the code at tiny sizes")
    parser.add_argument("--out", type=Path, default=Path("gpu"), help="where results are kept")
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="these stages")
    parser.add_argument("--minutes", type=float, default=8, help="for all stages together")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is not done yet; 1 if a stage did not come to its end, 2 if there is no card."""
    options = parse(arguments)
    device = torch.device(options.device)
    on_cpu = device.type == "cpu"
    if not on_cpu and not torch.cuda.is_available():
        print("there is no CUDA here: --device cpu tries the stages at a tiny size")
        return 2
    ends = time.monotonic() + 60 * options.minutes
    waiting = [s for s in stages(options.device, options.tiny or on_cpu) if s.name in options.only]
    missed = False
    while waiting:
        stage = waiting.pop(0)
        folder = options.out.resolve() / stage.name
        if (folder / "done.json").exists():
            print(f"{stage.name}: done before", flush=True)
            continue
        began = time.monotonic()
        left = ends - began
        spare = left - sum(other.limit for other in waiting)
        limit = max(stage.limit, spare) if stage.resumes else stage.limit
        ended = perform(stage, folder, ON_A_CPU * limit if on_cpu else limit, left)
        seconds = time.monotonic() - began
        print(f"{stage.name}: {ended}, {seconds:.0f} s", flush=True)
        if ended == "done":
            text = json.dumps(
                {"seconds": round(seconds), **versions(), **device_facts(device)}, indent=1
            )
            (folder / "done.json").write_text(text + "\n")
        else:
            missed = True
            tail = (folder / "log.txt").read_text().splitlines()[-LINES:]
            print(*(f"    {line}" for line in tail), sep="\n", flush=True)
    pack(options.out)
    return int(missed)


def perform(stage: Stage, folder: Path, seconds: float, left: float) -> str:
    """Run a stage's commands until they end or its time does; how it ended, in words."""
    folder.mkdir(parents=True, exist_ok=True)
    ends = time.monotonic() + min(seconds, left - SECONDS_TO_SAVE)
    with (folder / "log.txt").open("a") as log:
        for command in stage.commands:
            code = run(command.replace("OUT", shlex.quote(str(folder))), log, ends)
            if code is None:
                return "stopped at its limit"
            if code:
                return f"failed with status {code}"
    return "done"


def run(command: str, log: TextIO, ends: float) -> int | None:
    """Run a command in a group of its own; its status, or None if its time ended first."""
    print("$", command, file=log, flush=True)
    program, *arguments = shlex.split(command)
    process = subprocess.Popen(
        [sys.executable, *PROGRAMS[program], *arguments],
        stdout=log,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "100"},
        start_new_session=True,
    )
    try:
        return process.wait(max(0.0, ends - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)  # what it has made is saved
    try:
        process.wait(SECONDS_TO_SAVE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return None


def pack(folder: Path) -> None:
    """Put all that the stages left into one archive."""
    archive = folder.with_name(f"{folder.name}.tar.xz")
    with tarfile.open(archive, "w:xz") as packed:
        packed.add(folder, arcname=folder.name)
    size = archive.stat().st_size
    print(f"{archive}: {size / 2**20:.1f} MB")
    if size > MOST_BYTES:
        print(f"more than {MOST_BYTES / 2**20:.0f} MB: take single stages' folders instead")


if __name__ == "__main__":
    sys.exit(main())
