"""The command line: a table of plain typed functions, one module per command.

No module here postpones its annotations: before Python 3.10, Typer can't read them as strings.
"""

from segtrain.cli import (  # noqa: F401  (registers them)
    average,
    bench,
    cache,
    check,
    compare,
    config,
    demo,
    doctor,
    eval,
    export,
    init,
    launch,
    lr,
    pack,
    predict,
    report,
    runs,
    selftest,
    show,
    skips,
    train,
)
from segtrain.cli.app import app, main

__all__ = ["app", "main"]
