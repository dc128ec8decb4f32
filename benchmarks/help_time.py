"""How long `gradlab --help` takes, beside that of a Typer app of two commands.

    python benchmarks/help_time.py

Processor time of new processes, in turns, medians; their ratio is to be 1.3 at most.
"""

import argparse
import resource
import statistics
import subprocess
import sys
from collections.abc import Sequence

TWO_COMMANDS = """
import typer
app = typer.Typer()
@app.command()
def one(number: int = 3) -> None: "The first."
@app.command()
def two(name: str = "x") -> None: "The second."
app()
"""

PROGRAMS = {
    "two commands": ["-c", TWO_COMMANDS, "--help"],
    "gradlab": ["-m", "gradlab.cli", "--help"],
    "gradlab train": ["-m", "gradlab.cli", "train", "--help"],
}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=15, help="times that each is called")
    return parser.parse_args(arguments)


def processor_seconds(words: Sequence[str]) -> float:
    """Of one new Python process, user and system."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *words], stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main(arguments: Sequence[str] | None = None) -> None:
    steps = parse(arguments).steps
    rounds = [
        {name: processor_seconds(words) for name, words in PROGRAMS.items()} for _ in range(steps)
    ]
    base = "two commands"
    for name in PROGRAMS:
        seconds = statistics.median(times[name] for times in rounds)
        ratio = statistics.median(times[name] / times[base] for times in rounds)
        print(f"{name:14} --help: {seconds:.3f} s of processor time, {ratio:.2f} times {base}")


if __name__ == "__main__":
    main()
