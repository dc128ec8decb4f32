"""What may import what, held on the source and, where imports are indirect, on a new process."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from itertools import chain
from pathlib import Path

import pytest

import gradlab

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FOLDERS: dict[str, str] = PYPROJECT["tool"]["setuptools"]["package-dir"]
PACKAGES: list[str] = PYPROJECT["tool"]["setuptools"]["packages"]

# Each may import itself and those before it.
LAYERS = ("gradlab", "gradlab.analyses", "gradlab.figures", "gradlab.pages", "gradlab.cli")

DRAWING = {"matplotlib", "seaborn"}
TERMINAL = {"typer", "click", "rich"}
NEVER = {
    "gradlab": DRAWING | TERMINAL,
    "gradlab.analyses": {"torch"} | DRAWING | TERMINAL,
    "gradlab.figures": {"torch"} | TERMINAL,
    "gradlab.pages": {"torch", "typer", "click"},
    "gradlab.cli": set(),
}
INSIDE_FUNCTIONS_ONLY = {
    "gradlab": {"pandas"},
    "gradlab.analyses": set(),
    "gradlab.figures": set(),
    "gradlab.pages": set(),
    "gradlab.cli": {"torch", "pandas", "pyarrow"} | DRAWING,
}


def distributions(requirements: list[str]) -> set[str]:
    """Names of the requirements as they are imported."""
    return {re.split(r"[^\w.-]", line)[0].replace("-", "_") for line in requirements}


EXTRAS = set().union(
    *(
        distributions(requirements)
        for extra, requirements in PYPROJECT["project"]["optional-dependencies"].items()
        if extra not in ("dev", "peers", "integrations", "harness")
    )
)
# Reviewed: torch 2.9, the lowest that pyproject.toml allows, has these too.
PRIVATE_TO_TORCH = {
    "torch._C._dynamo.eval_frame",
    "torch._C._functorch.is_functorch_wrapped_tensor",
    "torch._C._functorch.is_legacy_batchedtensor",
    "torch._C._functorch.peek_interpreter_stack",
    "torch._ops.OpOverload",
    "torch._utils._flatten_dense_tensors",
}
# torch imports the one, transformers' Trainer and a user's loop the other.
NOT_IMPORTED_HERE = {"tensorboard", "accelerate"}
# A torch with CUDA requires it; where it is missing, torch's own kernels do the same.
BROUGHT_BY_TORCH = {"triton"}

# Each module of it needs its extra, and nothing else needs the module.
INTEGRATIONS = "gradlab.integrations"


@dataclass(frozen=True)
class Import:
    """One imported name, `torch.nn` or `gradlab.config.RunConfig`, and when it is imported."""

    name: str
    place: str
    when: str  # "module", "function" or "type checking"

    @property
    def package(self) -> str:
        return self.name.partition(".")[0]


def imports_of(source: str, file: str) -> Iterator[Import]:
    """Every import in a source text."""
    yield from _imports([ast.parse(source)], file, "module")


def _imports(nodes: Iterable[ast.AST], file: str, when: str) -> Iterator[Import]:
    for node in nodes:
        place = f"{file}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, place, when) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{place}: a relative import"
            yield from (Import(f"{node.module}.{a.name}", place, when) for a in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from _imports(node.body, file, "type checking")
            yield from _imports(node.orelse, file, when)
        else:
            deferred = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            inside = "function" if deferred and when == "module" else when
            yield from _imports(ast.iter_child_nodes(node), file, inside)


@cache
def imports_of_file(path: Path) -> tuple[Import, ...]:
    return tuple(imports_of(path.read_text(), str(path.relative_to(ROOT))))


def imports_in(layer: str) -> Iterator[Import]:
    return chain.from_iterable(map(imports_of_file, files_of(layer)))


def files_of(layer: str) -> list[Path]:
    return sorted((ROOT / FOLDERS[layer]).rglob("*.py"))


def module_files_of(layer: str) -> list[Path]:
    """The files of `modules_of`."""
    return [path for path in files_of(layer) if path.name != "__main__.py"]


def modules_of(layer: str) -> list[str]:
    """Names of a layer's modules, `__main__` left out: importing it runs it."""
    folder = ROOT / FOLDERS[layer]
    names = (
        ".".join([layer, *path.relative_to(folder).with_suffix("").parts])
        for path in module_files_of(layer)
    )
    return [name.removesuffix(".__init__") for name in names]


def loaded_after(statements: str) -> set[str]:
    """Top-level names in `sys.modules` of a new process that ran the statements."""
    code = f"{statements}\nimport json, sys; print(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names: list[str] = json.loads(done.stdout.splitlines()[-1])
    return {name.partition(".")[0] for name in names}


SAMPLE = """
import a.b, c
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from d import e
else:
    import f
try:
    import g
except ImportError:
    pass
class K:
    import h
    def method(self):
        import i
"""


def test_the_reader_of_imports_sees_each_kind() -> None:
    assert {found.name: found.when for found in imports_of(SAMPLE, "sample.py")} == {
        "a.b": "module",
        "c": "module",
        "typing.TYPE_CHECKING": "module",
        "d.e": "type checking",
        "f": "module",
        "g": "module",
        "h": "module",
        "i": "function",
    }
    with pytest.raises(AssertionError, match="a relative import"):
        list(imports_of("from . import config", "sample.py"))


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_point_one_way(layer: str) -> None:
    later = LAYERS[LAYERS.index(layer) + 1 :]
    wrong = [
        found
        for found in imports_in(layer)
        if not found.place.startswith("gradlab/__init__.py:")  # it may name any layer, lazily
        and any(f"{found.name}.".startswith(f"{other}.") for other in later)
    ]
    assert not wrong


def module_graph() -> dict[str, set[str]]:
    """The modules that each module of ours imports, wherever in its text."""
    names = {name for layer in LAYERS for name in modules_of(layer)}

    def module_named(name: str) -> str | None:
        """The longest part of a name that is a module."""
        parts = name.split(".")
        starts = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
        return next((start for start in starts if start in names), None)

    graph: dict[str, set[str]] = {name: set() for name in names}
    for layer in LAYERS:
        for name, path in zip(modules_of(layer), module_files_of(layer), strict=True):
            found = {module_named(one.name) for one in imports_of_file(path)}
            graph[name] |= {module for module in found if module not in (None, name)}  # type: ignore[misc]
    del graph["gradlab"]  # the one place that names what stands above it, lazily
    return graph


def circle_in(graph: Mapping[str, Collection[str]]) -> list[str]:
    """A circle of imports; empty if there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        circle: list[str] = error.args[1]
        return circle
    return []


def test_imports_have_no_circle() -> None:
    """Those inside functions and under TYPE_CHECKING counted."""
    graph = module_graph()
    assert len(graph) > 100
    assert not circle_in({name: uses - {"gradlab"} for name, uses in graph.items()})


def test_a_circle_is_found() -> None:
    assert set(circle_in({"a": {"b"}, "b": {"c"}, "c": {"a"}})) == {"a", "b", "c"}
    assert circle_in({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


@pytest.mark.parametrize("layer", LAYERS)
def test_what_a_layer_leaves_to_the_others(layer: str) -> None:
    wrong = [
        found
        for found in imports_in(layer)
        if found.package in NEVER[layer]
        or (found.package in INSIDE_FUNCTIONS_ONLY[layer] and found.when == "module")
    ]
    assert not wrong


@pytest.mark.parametrize("layer", LAYERS)
def test_optional_packages_are_imported_where_they_are_used(layer: str) -> None:
    own = INTEGRATIONS.replace(".", "/")
    wrong = [
        found
        for found in imports_in(layer)
        if not found.place.startswith(own)
        and (
            (found.package in EXTRAS and found.when == "module")
            or f"{found.name}.".startswith(f"{INTEGRATIONS}.")
        )
    ]
    assert not wrong


def test_what_is_private_to_torch_is_imported_where_every_torch_has_it() -> None:
    found = {one.name for one in imports_in("gradlab") if one.when == "module"}
    assert {name for name in found if name.startswith("torch._")} == PRIVATE_TO_TORCH


def test_declared_dependencies_are_the_imported_ones() -> None:
    imported = {found.package for layer in LAYERS for found in imports_in(layer)}
    foreign = imported - sys.stdlib_module_names - {"gradlab"}
    declared = distributions(PYPROJECT["project"]["dependencies"]) | EXTRAS
    assert foreign - BROUGHT_BY_TORCH == declared - NOT_IMPORTED_HERE


def test_every_folder_of_code_is_a_listed_package() -> None:
    found = {
        ".".join([layer, *path.parent.relative_to(ROOT / FOLDERS[layer]).parts])
        for layer in LAYERS
        for path in files_of(layer)
    }
    assert found == set(PACKAGES)
    assert len(PACKAGES) == len(set(PACKAGES))


@pytest.mark.parametrize("layer", LAYERS[1:])
def test_type_checkers_see_the_packages_outside_the_library(layer: str) -> None:
    assert layer in PYPROJECT["tool"]["mypy"]["packages"]
    link = ROOT / "typings" / layer.replace(".", "/")
    if not link.is_symlink():
        pytest.skip("this checkout has no symbolic links")
    assert link.resolve() == ROOT / FOLDERS[layer]


def test_files_stay_short() -> None:
    folders = [*FOLDERS.values(), "tests", "benchmarks", "examples"]
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text().splitlines())
        for folder in folders
        for path in (ROOT / folder).rglob("*.py")
    }
    assert {name: length for name, length in lengths.items() if length > 400} == {}


def test_importing_gradlab_is_light() -> None:
    assert not loaded_after("import gradlab") & {"torch", "numpy", "pandas", "pydantic"}


def test_runs_are_read_without_torch() -> None:
    assert "torch" not in loaded_after("from gradlab import load")


def test_what_stands_on_the_library_runs_without_torch() -> None:
    layers = ("gradlab.analyses", "gradlab.figures", "gradlab.pages")
    loaded = loaded_after(f"import {', '.join(chain.from_iterable(map(modules_of, layers)))}")
    assert "pandas" in loaded
    assert "torch" not in loaded


def test_the_command_line_is_light_until_a_command_runs() -> None:
    loaded = loaded_after(f"import {', '.join(modules_of('gradlab.cli'))}")
    assert "typer" in loaded
    assert not loaded & {"torch", "pandas", "matplotlib"}


@pytest.mark.parametrize("name", gradlab.__all__)
def test_public_names_are_there(name: str) -> None:
    assert getattr(gradlab, name).__name__ in (name, f"gradlab.{name}")
    assert name in dir(gradlab)


def test_other_names_are_not() -> None:
    with pytest.raises(AttributeError, match="no attribute 'train_model'"):
        gradlab.train_model  # noqa: B018


def test_training_starts_without_what_torch_itself_imports_late() -> None:
    """Every run of a study is a new process, and those modules take as long as torch."""
    code = (
        "import gradlab, gradlab.training.loop, sys\n"
        "gradlab.build_model(gradlab.model_config('pre-ln', 'nano', positions='learned'))\n"
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    late = {"torch.distributed.tensor", "torch._dynamo", "sympy", "pandas"}
    assert late & set(done.stdout.split()) == set()
