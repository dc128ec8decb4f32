"""The commands and code of the README and of docs, held against the command line and Python.

Commands are parsed, not run: an option that was renamed fails here.
"""

import re
import runpy
import shlex
import subprocess
from collections.abc import Callable
from itertools import dropwhile, groupby
from pathlib import Path
from typing import Any

import pytest

from gradlab.cli.main import load_command
from gradlab.settings import OneRun

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
SHELLS = {"console", "bash", "sh", "shell"}


def blocks(text: str) -> list[tuple[str, str]]:
    """(language, content) of every fenced block of a Markdown text."""
    return re.findall(r"^```(\w*)[^\n]*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[list[str]]:
    """The words of every shell command in a Markdown text; after a prompt where there are any."""
    found = []
    for language, content in blocks(text):
        if language not in SHELLS:
            continue
        lines = content.replace("\\\n", " ").splitlines()
        if language == "console":
            lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        for line in lines:
            lexer = shlex.shlex(line, posix=True, punctuation_chars="&;|")
            lexer.whitespace_split = True
            for separator, words in groupby(lexer, lambda word: set(word) <= set("&;|")):
                if not separator:
                    # NAME=value before a command is its environment.
                    found.append(list(dropwhile(re.compile(r"\w+=").match, words)))
    return found


def inline(text: str) -> list[list[str]]:
    """The words of every command that stands in a sentence or a table, as `gradlab sizes`."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return [
        shlex.split(code)
        for code in re.findall(r"`([^`]+)`", prose)
        if re.match(r"(gradlab|make|python) ", code)
    ]


def parse(words: list[str]) -> None:
    """Have the command line read `gradlab …`, without running it."""
    # These two answer at once, wherever they stand.
    name, *arguments = [word for word in words[1:] if word not in ("--help", "--version")] or [""]
    if name:
        load_command(name).make_context(name, arguments)


def in_documents(*programs: str, found: Callable[[str], list[list[str]]] = commands) -> list[Any]:
    return [
        pytest.param(words, id=f"{document.name}: {shlex.join(words)}")
        for document in DOCUMENTS
        for words in found(document.read_text())
        if Path(words[0]).name in programs
    ]


def test_commands_are_found() -> None:
    text = """
```console
$ make stability   # a comment
installing …
$ gradlab train --corpus hf:a \\
    --size nano && gradlab sizes; pip install 'a; b'
```
```python
gradlab = 1
```
```bash
OMP_NUM_THREADS=1 .venv/bin/gradlab sizes
```
"""
    assert commands(text) == [
        ["make", "stability"],
        ["gradlab", "train", "--corpus", "hf:a", "--size", "nano"],
        ["gradlab", "sizes"],
        ["pip", "install", "a; b"],
        [".venv/bin/gradlab", "sizes"],
    ]


def test_commands_in_sentences_are_found() -> None:
    text = "`gradlab sizes` or `gradlab figures\nRUN`, not `gradlab.load`.\n```sh\nmake test\n```\n"
    assert inline(text) == [["gradlab", "sizes"], ["gradlab", "figures", "RUN"]]


def test_an_unknown_option_is_seen() -> None:
    with pytest.raises(Exception, match="--no-such-option"):
        parse(["gradlab", "run-stability", "--no-such-option", "3"])


@pytest.mark.parametrize("words", in_documents("gradlab"))
def test_gradlab_commands_parse(words: list[str]) -> None:
    parse(words)


@pytest.mark.parametrize("words", in_documents("gradlab", found=inline))
def test_what_sentences_name_exists(words: list[str]) -> None:
    name, *arguments = words[1:]
    if name.isupper():  # `gradlab COMMAND --help`
        return
    known = {"--help", *(option for p in load_command(name).params for option in p.opts)}
    assert {word for word in arguments if word.startswith("--")} <= known


@pytest.mark.parametrize("words", in_documents("make") + in_documents("make", found=inline))
def test_make_targets_exist(words: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in (word for word in words[1:] if "=" not in word and not word.startswith("-")):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), f"no target {target}"


@pytest.mark.parametrize("words", in_documents("python") + in_documents("python", found=inline))
def test_python_scripts_exist_and_have_the_options(words: list[str]) -> None:
    script, *arguments = words[1:]
    if script.endswith(".py"):
        assert (ROOT / script).is_file()
    if script.startswith("benchmarks/"):
        runpy.run_path(str(ROOT / script), run_name="benchmark")["parse"](arguments)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_python_blocks_compile(document: Path) -> None:
    for language, content in blocks(document.read_text()):
        if language == "python":
            compile(content, str(document), "exec")


def test_make_stability_parses() -> None:
    dry = subprocess.run(
        ["make", "--dry-run", "--no-print-directory", "stability"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    *_, words = commands(f"```sh\n{dry.stdout}```")
    assert words[0].endswith("gradlab")
    parse(words)


def test_the_readme_gives_the_two_commands() -> None:
    given = commands((ROOT / "README.md").read_text())
    assert ["make", "stability"] in given
    assert ["make", "test"] in given


def test_the_defaults_that_are_told_are_those_of_gradlab_train() -> None:
    text = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    table = text.partition("Unless told, `gradlab train`")[2].partition("\n\nOn a CPU")[0]
    told = {
        name: value
        for names, values in re.findall(r"^\| (`.*?) \| (.*) \|$", table, flags=re.MULTILINE)
        for name, value in zip(
            re.findall(r"`(\w+)`", names),
            re.split(r"[:,] ", values)[: names.count("`") // 2],
            strict=True,
        )
    }
    assert len(told) > 10
    config = OneRun().replace(lr=OneRun().config().schedule.lr)
    assert told == {name: _in_a_table(getattr(config, name)) for name in told}


def _in_a_table(value: Any) -> str:
    if isinstance(value, tuple):
        return " and ".join(value)
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
