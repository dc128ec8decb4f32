"""The `gradlab` command."""

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from gradlab.cli import (
    ablate,
    blocks,
    claims,
    figures,
    grad_norms,
    inspect_run,
    lr_search,
    make_report,
    run_stability,
    sizes,
    train,
    variants,
)
from gradlab.errors import GradlabError
from gradlab.pages.screen import complain

# Typer has had Click's own class and its copy of it; this is either's base of wrong usage.
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]


class _Commands(TyperGroup):
    """Commands whose errors are one sentence on stderr and an exit status.

    2 for a user's mistake, 130 for Ctrl-C. Our own bugs keep their traceback.
    """

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except GradlabError as error:
            raise _end(f"error: {error}", 2) from None
        except _UsageError as error:
            raise _end(f"error: {_usage_sentence(error, ctx)}", 2) from None
        except KeyboardInterrupt:
            raise _end("interrupted.", 130) from None


def _usage_sentence(error: Any, ctx: Any) -> str:
    message = " ".join(error.format_message().split()).rstrip(".")
    return f"{message}. See {(error.ctx or ctx).command_path} --help."


def _end(message: str, status: int) -> typer.Exit:
    complain(message)
    return typer.Exit(status)


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
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


app.command("run-stability", epilog=run_stability.EXAMPLES)(run_stability.run_stability)
app.command("grad-norms", epilog=grad_norms.EXAMPLES)(grad_norms.grad_norms)
app.command("ablate", epilog=ablate.EXAMPLES)(ablate.ablate)
app.command("lr-search", epilog=lr_search.EXAMPLES)(lr_search.lr_search)
app.command("variants", epilog=variants.EXAMPLES)(variants.variants)
app.command("claims", epilog=claims.EXAMPLES)(claims.claims)
app.command("train", epilog=train.EXAMPLES)(train.train)
app.command("inspect", epilog=inspect_run.EXAMPLES)(inspect_run.inspect_run)
app.command("report", epilog=make_report.EXAMPLES)(make_report.report)
app.command("figures", epilog=figures.EXAMPLES)(figures.figures)
app.command("sizes", epilog=sizes.EXAMPLES)(sizes.sizes)
app.command("blocks", epilog=blocks.EXAMPLES)(blocks.blocks)


def run() -> None:
    """The entry point of the script."""
    app()
