"""The Typer app, what each command of it can do, and how it ends."""

import json
import os
import re
import sys
import traceback
from itertools import islice
from pathlib import Path
from typing import Any, List, Optional

import typer
from typer.core import TyperGroup
from typing_extensions import Annotated

from segtrain.cli.wording import worded

# What --help shows, in this order; a command that isn't named here comes after these.
_PANELS = {
    "Start": ("demo", "doctor"),
    "Data": ("init", "check", "pack", "cache"),
    "Train": ("train", "runs", "lr", "launch"),
    "Judge": ("eval", "compare", "report", "skips", "average"),
    "Use": ("predict", "export", "bench"),
    "Understand": ("show", "config", "selftest"),
}


class _Group(TyperGroup):
    """Ends a command that failed with one clear line and the exit code that fits."""

    def list_commands(self, ctx: Any) -> List[str]:
        named = [(panel, name) for panel, names in _PANELS.items() for name in names]
        for panel, name in named:
            command: Any = self.commands[name]
            command.rich_help_panel = panel
        first = [name for _, name in named]
        return [*first, *(name for name in super().list_commands(ctx) if name not in first)]

    def parse_args(self, ctx: Any, args: List[str]) -> List[str]:
        return super().parse_args(ctx, _plugins_first(args) if ctx.parent is None else args)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort, BrokenPipeError):
            raise
        except (KeyboardInterrupt, Exception) as error:
            if hasattr(error, "show"):  # a usage error, which Typer words itself
                raise
            if _debug:
                traceback.print_exc()
            line, code = worded(error)
        typer.echo(f"segtrain: {line}", err=True)
        raise typer.Exit(code)


def _plugins_first(args: List[str]) -> List[str]:
    """The arguments with --plugins, which is the app's own and goes with any command, before it."""
    end = args.index("--") if "--" in args else len(args)  # what follows is another command's
    first: List[str] = []
    rest: List[str] = []
    words = iter(args[:end])
    for word in words:
        if word == "--plugins":
            first += [word, *islice(words, 1)]
        else:
            (first if word.startswith("--plugins=") else rest).append(word)
    return [*first, *rest, *args[end:]]


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Train, judge and ship segmentation networks on Apache MXNet Gluon.",
)

_debug = False


def _set_debug(value: bool) -> bool:
    global _debug
    _debug = value
    return value


def _show_version(value: bool) -> None:
    if value:
        from segtrain import __version__

        typer.echo(f"segtrain {__version__}")
        raise typer.Exit()


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print it.")
    ] = False,
    plugins: Annotated[
        Optional[List[str]],
        typer.Option(
            "--plugins",
            metavar="FILE.py",
            help="Run a file that brings networks, losses, ... of your own, or import a module; for any "
            "command, also after its name, and repeatable.",
        ),
    ] = None,
) -> None:
    if plugins or "SEGTRAIN_PLUGINS" in os.environ:
        from segtrain.plugins import use, use_known

        use_known()
        for name in plugins or []:
            use(name)


Debug = Annotated[
    bool, typer.Option("--debug", callback=_set_debug, help="Show the traceback of an error.")
]
Json = Annotated[
    Optional[Path], typer.Option("--json", metavar="FILE", help="Write the result; - for stdout.")
]


def write_json(path: Optional[Path], result: Any) -> None:
    """The result of a command for `--json FILE`; nothing where it wasn't asked for."""
    if path is None:
        return
    numbers = r"\[\s+[-\d.eE+]+(?:,\s+[-\d.eE+]+)*\s+\]"  # a list of them goes on one line
    text = json.dumps(result, indent=1)
    text = re.sub(numbers, lambda found: "".join(found[0].split()).replace(",", ", "), text)
    if str(path) == "-":
        typer.echo(text)
        return
    from segtrain.prediction.infer import write

    write(path, f"{text}\n".encode())


def say(*lines: str) -> None:
    """What a person should read, on stderr: stdout is for results."""
    for line in lines:
        typer.echo(line, err=True)


def main() -> None:
    """The console script."""
    try:
        app()
    except BrokenPipeError:
        sys.exit(1)
