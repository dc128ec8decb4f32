"""The entry point of the script, light enough that Ctrl-C finds it ready."""

import sys
import warnings
from typing import TextIO

from gradlab.errors import GradlabWarning
from gradlab.parallel.environment import tells
from gradlab.training.interrupt import ending_as_ctrl_c


def run() -> None:
    """Run the `gradlab` command; SIGTERM and SIGHUP end it as Ctrl-C does, with status 130."""
    warnings.showwarning = _show_warning
    for stream in (sys.stdout, sys.stderr):  # what they cannot show is no reason to end
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        with ending_as_ctrl_c():
            from gradlab.cli.main import app

            app()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted.\n")
        sys.exit(130)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """A warning of gradlab's as a sentence, without where in the code it was given."""
    if issubclass(category, GradlabWarning):
        from gradlab.pages.screen import complain

        if tells():
            complain(f"warning: {message}")
    else:
        _as_python_shows_it(message, category, filename, lineno, file, line)


_as_python_shows_it = warnings.showwarning
