"""The command line."""

from kilograd.cli.commands import app, main
from kilograd.cli.options import Options

__all__ = ["Options", "app", "main"]
