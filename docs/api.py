"""Make the API pages, one a module, from the docstrings: `make docs` puts them into docs/api."""

import sys
from collections.abc import Iterator
from pathlib import Path
from pkgutil import iter_modules

import pdoc

import gradlab


def modules() -> Iterator[str]:
    """The library and what lies in it, but for the commands, which have `--help`."""
    yield "gradlab"
    for module in iter_modules(gradlab.__path__):
        if module.name not in (*gradlab.__all__, "cli"):  # those come with gradlab itself
            yield f"gradlab.{module.name}"


def main(out: Path) -> None:
    """Write them into a folder."""
    for name in gradlab.__all__:  # pdoc sees what is there, and these come when first asked for
        setattr(gradlab, name, getattr(gradlab, name))
    pdoc.render.configure(docformat="google", search=False)
    pdoc.pdoc(*modules(), output_directory=out)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else Path(__file__).parent / "api")
