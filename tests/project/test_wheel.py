"""The wheel of the last commit, built, looked into and used from outside the checkout.

Built from an export: an old `build/` in the working tree would keep modules that were renamed.
"""

import os
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
WITHOUT_NETWORK = ["--no-index", "--no-deps"]


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the last commit and nothing else."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    folder = tmp_path_factory.mktemp("export")
    archive = folder.with_suffix(".tar")
    subprocess.run(["git", "archive", "--output", archive, "HEAD"], cwd=ROOT, check=True)
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module")
def wheel(export: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [*PIP, "wheel", *WITHOUT_NETWORK, "--no-build-isolation", "--wheel-dir", folder, export]
    subprocess.run(build, check=True)
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def run_outside(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Runs Python on the installed wheel, in an empty folder, with this venv's other packages.

    With -S, no `.pth` file is read: the checkout's editable install would supply what is missing.
    """
    site, empty = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("empty")
    install = [*PIP, "install", *WITHOUT_NETWORK, "--no-compile", "--target", site, wheel]
    subprocess.run(install, check=True)
    path = os.pathsep.join([str(site), sysconfig.get_path("purelib")])

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-S", *arguments],
            cwd=empty,
            env={**os.environ, "PYTHONPATH": path, "COLUMNS": "100"},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    return run


def test_it_holds_gradlab_and_nothing_else(wheel: Path, export: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    folders = tomllib.loads((export / "pyproject.toml").read_text())["tool"]["setuptools"][
        "package-dir"
    ]
    code = {
        f"{package.replace('.', '/')}/{path.relative_to(export / folder).as_posix()}"
        for package, folder in folders.items()
        for path in (export / folder).rglob("*.py")
    }
    data = {
        f"gradlab/{path.relative_to(export).as_posix()}"
        for folder in ("templates", "uplot")
        for path in (export / "pages" / folder).iterdir()
    }
    metadata = {name for name in held if name.split("/")[0].endswith(".dist-info")}
    assert held - metadata == code | data | {"gradlab/py.typed"}
    assert any(name.endswith("/entry_points.txt") for name in metadata)
    assert any(name.endswith("/LICENSE") for name in metadata)


def test_the_command_line_runs(run_outside: Callable[..., str]) -> None:
    assert "run-stability" in run_outside("-m", "gradlab.cli", "--help")


def test_a_model_is_built_and_analyses_and_figures_are_there(
    run_outside: Callable[..., str],
) -> None:
    code = (
        "import gradlab as g, gradlab.analyses.stability, gradlab.figures.stability as s\n"
        "print(g.build_model(g.model_config('pre-ln', 'nano')).config.d_model, s.__name__)"
    )
    assert run_outside("-c", code) == "64 gradlab.figures.stability\n"
