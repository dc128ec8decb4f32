"""The `gradlab` command: Typer commands, one a file.

Torch, pandas and matplotlib are imported inside the commands, so that `--help` is quick.
"""
