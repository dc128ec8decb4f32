"""Examples in docstrings give what they say."""

import doctest
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "gradlab": "gradlab",
    **{n: f"gradlab.{n}" for n in ("analyses", "figures", "pages", "cli")},
}
MODULES = [
    ".".join([PACKAGES[folder], *file.relative_to(ROOT / folder).with_suffix("").parts])
    for folder in PACKAGES
    for file in sorted((ROOT / folder).rglob("*.py"))
    if ">>> " in file.read_text()
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    result = doctest.testmod(import_module(name.removesuffix(".__init__")))
    assert result.attempted
    assert not result.failed
