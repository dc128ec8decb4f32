"""The entry point of the script, light enough that Ctrl-C finds it ready."""

import sys

from gradlab.training.interrupt import ending_as_ctrl_c


def run() -> None:
    """Run the `gradlab` command; SIGTERM and SIGHUP end it as Ctrl-C does, with status 130."""
    try:
        with ending_as_ctrl_c():
            from gradlab.cli.main import app

            app()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted.\n")
        sys.exit(130)
