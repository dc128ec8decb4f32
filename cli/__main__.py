"""`python -m gradlab.cli`."""

from gradlab.cli.main import run

run()
