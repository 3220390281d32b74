"""The command line: one file a kind of command, each with its own printing."""

from kilograd.cli.main import app, main

__all__ = ["app", "main"]
