"""`python -m gradlab.cli`."""

from gradlab.cli.start import run

run()
