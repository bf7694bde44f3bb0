"""The command line: a table of plain typed functions, one module per command."""

from segtrain.cli import demo, eval, export, predict, show, train  # noqa: F401  (registers them)
from segtrain.cli.app import app, main

__all__ = ["app", "main"]
