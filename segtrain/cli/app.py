"""The Typer app, the options that commands share, and how an error becomes one line."""

import errno
import json
import os
import re
import sys
import traceback
from enum import Enum
from itertools import islice
from pathlib import Path
from typing import Any, List, Optional, Tuple

import typer
from typer.core import TyperGroup
from typing_extensions import Annotated

from segtrain.errors import LOST, SegtrainError, UserError

_FULL = {errno.ENOSPC, errno.EDQUOT}
_INSTALL_HEADLESS = (
    "pip install --force-reinstall --no-deps 'opencv-contrib-python-headless<4.9' mends it"
)
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
# What Horovod says of the others when one of them has gone: its own words, and Gloo's.
_LOST = (
    "Horovod has been shut down",
    "Read error [",
    "writev [",
    "Connection closed by peer [",
    "Socket closed [",
    "Timed out waiting",
)


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
            line, code = _worded(error)
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


def _worded(error: BaseException) -> Tuple[str, int]:
    """What to say of an error, and the exit code."""
    if isinstance(error, KeyboardInterrupt):
        return "stopped at once; what was saved before is whole", 130
    if isinstance(error, SegtrainError):
        return str(error), error.exit_code
    if type(error).__name__ == "MXNetError" and any(words in str(error) for words in _LOST):
        return LOST, 1
    if isinstance(error, ImportError) or (isinstance(error, OSError) and error.errno is None):
        return _of_installation(error), 2
    if isinstance(error, OSError):
        return _of_system(error)
    if isinstance(error, UnicodeEncodeError) and "surrogates" in error.reason:
        line = next((line for line in error.object.splitlines() if not line.isprintable()), "")
        return f"{ascii(line)[:200]}: a name that isn't UTF-8; rename the file", 2
    text = " ".join(str(error).split())[:300]  # a defect of ours; --debug shows the traceback
    return f"internal error, {type(error).__name__}: {text} (see --debug)", 1


def _of_installation(error: BaseException) -> str:
    """What to type where a module or a shared library is missing."""
    text = str(error)
    if "libGL" in text:
        return f"{text}: {_INSTALL_HEADLESS}"
    if isinstance(error, ImportError) and error.name == "mxnet":
        return "MXNet isn't installed: pip install 'segtrain[cpu]', or [cu117] for a GPU"
    return f"{text} (is the installation whole? see --debug)"


def _of_system(error: OSError) -> Tuple[str, int]:
    where = str(error.filename2 or error.filename or "the output folder")
    where = re.sub(r"(^|/)\.([^/]+)\.\d+$", r"\1\2", where)  # what was being written aside
    if error.errno in _FULL:
        return f"{where}: the disk is full; make room, then go on (train: with --resume)", 2
    if error.errno in _FORBIDDEN:
        return f"{where}: can't be written ({error.strerror}); give another place", 2
    return f"{where}: {error.strerror or error}", 2


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
Devices = Annotated[
    str,
    typer.Option(
        metavar="D",
        help="auto, cpu, gpu, gpu:0,1 or cpu:0,1 (two logical CPUs); only train uses several.",
    ),
]
Format = Annotated[
    Optional[str],
    typer.Option("--format", help="Of a bundle's: mxnet (the default), onnx, int8, float16."),
]
Runtime = Annotated[
    Optional[str],
    typer.Option(metavar="R", help="What runs a bundle: mxnet, onnxruntime, openvino, openvino-bf16."),
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


def policy_from(
    scales: Optional[str],
    flip: Optional[bool],
    window: Optional[int],
    overlap: Optional[float],
    of: Any,
    blend: Optional[Enum] = None,
) -> Any:
    """The run's inference policy `of`, with what the options say in place of its values."""
    try:
        asked = of.scales if scales is None else tuple(float(s) for s in scales.split(","))
    except ValueError:
        raise UserError(f"--scales {scales!r}: numbers with commas between, like 0.75,1,1.25") from None
    if not all(0 < scale < 100 for scale in asked):
        raise UserError(f"--scales {scales}: each must be positive, like 0.75,1,1.25")
    return of._replace(
        scales=asked,
        flip=of.flip if flip is None else flip,
        window=of.window if window is None else window,
        overlap=of.overlap if overlap is None else overlap,
        blend=of.blend if blend is None else blend.value,
    )


_THROUGH = "How an image goes through the network"

Scales = Annotated[
    Optional[str],
    typer.Option(
        metavar="S,S,...", help="Average over these sizes: 0.75,1,1.25", rich_help_panel=_THROUGH
    ),
]
Flip = Annotated[
    Optional[bool],
    typer.Option(
        "--flip", help="Average with the mirrored image.", show_default=False, rich_help_panel=_THROUGH
    ),
]
Window = Annotated[
    Optional[int],
    typer.Option(
        min=0,
        metavar="N",
        help="Side of a sliding window in pixels; 0: always the whole image at once. "
        "Without it: whole up to 4 megapixels, windows of 1024 that overlap by a quarter beyond.",
        rich_help_panel=_THROUGH,
    ),
]
Overlap = Annotated[
    Optional[float],
    typer.Option(
        min=0,
        max=0.95,
        help="Share of a --window that the next one covers: 0.5 unless a run's config says otherwise.",
        rich_help_panel=_THROUGH,
    ),
]


class Blends(str, Enum):
    """The weights of windows, as in tiling.py."""

    gaussian = "gaussian"
    uniform = "uniform"


Blend = Annotated[
    Optional[Blends],
    typer.Option(
        help="How windows are weighted where they overlap: gaussian by default.",
        rich_help_panel=_THROUGH,
    ),
]


With = Annotated[
    List[Path],
    typer.Option("--with", metavar="RUN", help="Average probabilities with this run's; repeatable."),
]


def main() -> None:
    """The console script."""
    try:
        app()
    except BrokenPipeError:
        sys.exit(1)
