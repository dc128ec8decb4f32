"""The `gradlab` command."""

import os
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from gradlab.errors import GradlabError
from gradlab.parallel.environment import tells

COMMANDS = {
    "run-stability": "How high a learning rate each architecture survives.",
    "grad-norms": "Gradients by layer, architecture against architecture.",
    "ablate": "Take NormFormer's operations away one at a time (Table 4).",
    "lr-search": "Find the best learning rate of each architecture (Table 1).",
    "depth-scan": "Which depths of each architecture train.",
    "limit": "The highest constant learning rate, beside the ramp's.",
    "league": "All architectures side by side.",
    "variants": "Architectures under other hyperparameters (Table 5).",
    "claims": "Test the NormFormer paper's claims on small models.",
    "train": "Train one model, and say how it went.",
    "replay": "Go back before a run's break, and forward again.",
    "inspect": "Say what happened in a run, or what a study found.",
    "report": "Write what runs say as one HTML file.",
    "figures": "Draw every figure of the paper that the runs' tables allow.",
    "export": "Write a run's model for another library.",
    "sizes": "List the named sizes and what they cost.",
    "blocks": "Draw one layer of each architecture side by side.",
}
"""Each command, a file of its name in `gradlab.cli.commands`, and what it does."""

_PROPOSED = 5
"""Commands at most that an error ends with."""

_WORDS = "gradlab.words"
"""Where a command's context keeps what was typed."""

# Typer has had Click's own class and its copy of it; this is either's base of wrong usage.
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]


class _Commands(TyperGroup):
    """Commands that are imported when they are asked for.

    Their errors are one sentence on stderr and an exit status: 2 for a user's mistake, 130 for
    Ctrl-C. Our own bugs keep their traceback.
    """

    _listing = False

    def __init__(self, **kwargs: Any) -> None:
        stand_ins = {name: TyperCommand(name, help=what) for name, what in COMMANDS.items()}
        super().__init__(**{**kwargs, "commands": stand_ins})

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The words that follow `gradlab`, which an error may have to say again."""
        ctx.meta[_WORDS] = tuple(args)
        return super().parse_args(ctx, args)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command, or for the list of them what stands for it."""
        stand_in = self.commands.get(cmd_name)
        return stand_in if stand_in is None or self._listing else load_command(cmd_name)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """The list of the commands."""
        self._listing = True
        try:
            super().format_help(ctx, formatter)
        finally:
            self._listing = False

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except GradlabError as error:
            ended = _end(f"error: {error}", 2, said=tells(error))
            _propose(ctx.meta[_WORDS], error.instead)
            raise ended from None
        except _UsageError as error:
            raise _end(f"error: {_usage_sentence(error, ctx)}", 2) from None
        except KeyboardInterrupt:
            raise _end("interrupted.", 130) from None
        except OSError as error:  # of the user's files: one without a name is a bug of ours
            if error.filename is None:
                raise
            raise _end(f"error: {error.filename} cannot be used: {error.strerror}.", 2) from error


def _usage_sentence(error: Any, ctx: Any) -> str:
    message = " ".join(error.format_message().split()).rstrip(".")
    stop = "" if message.endswith("?") else "."
    return f"{message}{stop} See {(error.ctx or ctx).command_path} --help."


def _propose(words: Sequence[str], places: Sequence[Path]) -> None:
    """The words that were typed again, with what could be named instead of the folder in them."""
    at = next((n for n in range(1, len(words)) if places and _names(words, n, places[0])), None)
    if at is None or not tells():
        return
    from gradlab.cli.terminal.screen import say_next

    option, is_one_word, _ = _split(words[at])
    for place in places[:_PROPOSED]:
        named = f"{option}={place}" if is_one_word else place
        say_next("gradlab", *words[:at], named, *words[at + 1 :])


def _names(words: Sequence[str], n: int, place: Path) -> bool:
    """Whether a word names the folder that a place is in, to read it: by itself or its run.json."""
    option, is_one_word, value = _split(words[n])
    path = Path(os.path.expanduser(value)) if value else None
    is_out = "--out" in ((option,) if is_one_word else words[n - 1 : n])
    return not is_out and path in (place.parent, place.with_name("run.json"))


def _split(word: str) -> tuple[str, str, str]:
    """An option, the = after it and its value; of any other word all is value."""
    return word.partition("=") if word.startswith("--") else ("", "", word)


def _end(message: str, status: int, *, said: bool | None = None) -> typer.Exit:
    """The end of a command, told by one of the processes that torchrun may have started."""
    from gradlab.pages.screen import complain

    if tells() if said is None else said:
        complain(message)
    return typer.Exit(status)


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"gradlab {version('gradlab-diagnostics')}")
        raise typer.Exit


@app.callback(
    epilog="Start with:\n\ngradlab run-stability --lr-step 2e-4\n\n"
    "Every command has its own --help with examples."
)
def gradlab(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", is_eager=True, callback=_show_version),
    ] = False,
) -> None:
    """Why did this run blow up, and which architecture survives a higher learning rate?"""


def load_command(name: str) -> Any:
    """A command with its options."""
    from gradlab.cli.options.command import Command, with_options

    module = import_module(f"gradlab.cli.commands.{name.replace('-', '_')}")
    command = getattr(module, name.replace("-", "_"))
    alone = typer.Typer(add_completion=False, rich_markup_mode=None)
    alone.command(name, cls=Command, epilog=module.EXAMPLES)(with_options(command))
    return typer.main.get_command(alone)
