"""Without its package, a module of gradlab.integrations says what to install."""

import sys
from importlib import import_module

import pytest

from gradlab.errors import GradlabError

MODULES = {
    "huggingface": "transformers",
    "lightning": "lightning",
    "modeling_gradlab": "transformers",
    "tensorboard": "tensorboard",
    "wandb": "wandb",
}


class Missing:
    """Finds no package of a name, as if it were not installed."""

    def __init__(self, package: str) -> None:
        self._package = package

    def find_spec(self, name: str, *_: object) -> None:
        if name.partition(".")[0] == self._package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=self._package)


@pytest.mark.parametrize(("module", "package"), MODULES.items())
def test_the_sentence_names_the_extra(
    module: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"gradlab.integrations.{module}"
    for loaded in list(sys.modules):
        if loaded in (name, "torch.utils.tensorboard") or f"{loaded}.".startswith(f"{package}."):
            monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setattr(sys, "meta_path", [Missing(package), *sys.meta_path])
    sentence = rf"{name} needs the package {package}: pip install '.*\[{package}\]'"
    with pytest.raises(GradlabError, match=sentence):
        import_module(name)
