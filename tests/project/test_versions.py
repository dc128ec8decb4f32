"""The checks on other processors and versions do what they say."""

import os
import platform
import runpy
import sys
from pathlib import Path

import pytest
import torch

RUN = Path(__file__).parents[1] / "versions" / "run.py"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the settings are of x86-64")
def test_torch_does_without_what_it_is_told_to() -> None:
    told = os.environ.get("ATEN_CPU_CAPABILITY")
    if told is None:
        pytest.skip("nothing is told")
    assert torch.backends.cpu.get_cpu_capability().lower() == told


def test_this_python_is_found_among_those_of_the_machine() -> None:
    found = runpy.run_path(str(RUN), run_name="versions")["pythons"]()
    assert "{}.{}".format(*sys.version_info[:2]) in found
    assert all(int(version.partition(".")[2]) >= 11 for version in found)


def test_arguments_of_pytest_are_handed_on() -> None:
    parse = runpy.run_path(str(RUN), run_name="versions")["parse"]
    options = parse(["--python", "3.12", "--take", "lowest", "--", "-x", "tests/precision"])
    assert (options.python, options.take) == (["3.12"], ["lowest"])
    assert options.tests == ["-x", "tests/precision"]
    everything = parse([])
    assert (everything.python, everything.take) == (None, ["lowest", "newest"])
