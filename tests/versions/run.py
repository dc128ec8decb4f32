"""Run the tests with the lowest and the newest of every dependency, on each Python of the machine.

    python tests/versions/run.py
    python tests/versions/run.py --python 3.12 --take lowest -- -x tests/precision

Each combination gets an environment of its own from `pyproject.toml`, which uv resolves: `lowest`
takes, of each package named there, the lowest release that it allows and that has a wheel for that
Python. Environments are made one after the other and removed; on Linux one has 7 GB, for PyTorch
comes with CUDA (UV_TORCH_BACKEND=cpu takes the CPU build where PyTorch's own index is reached).
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from shutil import which

ROOT = Path(__file__).parents[2]
OLDEST = (3, 11)
RESOLUTIONS = {"lowest": "lowest-direct", "newest": "highest"}
TESTS = ("-m", "not gpu and not long", "--numprocesses", "2", "--quiet", "-p", "no:cacheprovider")


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    found = pythons()
    chosen = {version: found[version] for version in options.python or found}
    failed = False
    for version, python in chosen.items():
        for take in options.take:
            began = time.monotonic()
            with tempfile.TemporaryDirectory() as folder:
                environment = Path(folder) / "venv"
                make(environment, python, RESOLUTIONS[take])
                print(f"\nPython {version}, {take}: {versions(environment)}", flush=True)
                code = run_tests(environment, options.tests)
            failed |= code != 0
            minutes = (time.monotonic() - began) / 60
            print(f"Python {version}, {take}: {'failed' if code else 'passed'}, {minutes:.0f} min")
    sys.exit(failed)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--python", nargs="+", metavar="VERSION", help="as 3.12; all that are here")
    parser.add_argument("--take", nargs="+", choices=RESOLUTIONS, default=list(RESOLUTIONS))
    parser.add_argument("tests", nargs="*", help="of pytest, after --; all that CI runs")
    return parser.parse_args(arguments)


def pythons() -> dict[str, str]:
    """Version → program, of every Python on the path or of pyenv that gradlab allows."""
    found: dict[str, str] = {}
    for program in candidates():
        version = version_of(program)
        if version is not None and version >= OLDEST:
            found.setdefault("{}.{}".format(*version), program)
    return dict(sorted(found.items(), key=lambda pair: int(pair[0].partition(".")[2])))


def candidates() -> Iterator[str]:
    yield sys.executable
    yield from filter(None, (which(f"python3.{minor}") for minor in range(OLDEST[1], 30)))
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    yield from map(str, sorted(pyenv.glob("versions/3.*/bin/python")))


def version_of(program: str) -> tuple[int, int] | None:
    """None for what is no working Python, as pyenv's placeholders are."""
    code = "import sys; print(*sys.version_info[:2])"
    done = subprocess.run([program, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        return None
    major, minor = done.stdout.split()
    return int(major), int(minor)


def uv(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "uv", *arguments], cwd=ROOT, check=True)


def make(environment: Path, python: str, resolution: str) -> None:
    """An environment with gradlab and what its tests need, of wheels alone."""
    uv("venv", "--quiet", "--seed", "--python", python, str(environment))  # tests call pip
    interpreter = str(environment / "bin" / "python")
    uv(
        *("pip", "install", "--quiet", "--python", interpreter, "--no-build"),
        *("--resolution", resolution, "--editable", ".[dev]"),
    )


def versions(environment: Path) -> str:
    """What the environment has of the packages that gradlab needs."""
    code = (
        "import importlib.metadata as m, sys\n"
        "print(', '.join(f'{name} {m.version(name)}' for name in sys.argv[1:]))"
    )
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = [re.split(r"\W(?<!-)", needed)[0] for needed in project["dependencies"]]
    command = [environment / "bin" / "python", "-c", code, *names]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def run_tests(environment: Path, tests: Sequence[str]) -> int:
    """Pytest's exit status."""
    command = [environment / "bin" / "python", "-m", "pytest", *TESTS, *tests]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=one_thread, check=False).returncode


if __name__ == "__main__":
    main()
