"""The options and arguments that several commands take."""

from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any, List, Optional, Tuple

import typer
from typing_extensions import Annotated

from segtrain.errors import UserError

# ---- what is worked on

ConfigFile = Annotated[Path, typer.Argument(help="The YAML config.")]
ConfigOrRun = Annotated[Path, typer.Argument(metavar="CONFIG_OR_RUN", help="A YAML config, or a run.")]
# Whose help is the command's own example; no list as the default, which click before 8.2 refuses.
Overrides = partial(typer.Argument, metavar="[KEY=VALUE]...")
RunFolder = Annotated[Path, typer.Argument(help="A run folder.")]
RunOrBundle = Annotated[Path, typer.Argument(metavar="RUN_OR_BUNDLE", help="A run folder or a bundle.")]
Split = Annotated[str, typer.Option(help="The split to score on.")]

# ---- the network, and what runs it

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
With = Annotated[
    List[Path],
    typer.Option("--with", metavar="RUN", help="Average probabilities with this run's; repeatable."),
]

# ---- how an image goes through the network

_through = partial(typer.Option, rich_help_panel="How an image goes through the network")

Scales = Annotated[
    Optional[str], _through(metavar="S,S,...", help="Average over these sizes: 0.75,1,1.25")
]
Flip = Annotated[
    Optional[bool],
    _through("--flip", help="Average with the mirrored image.", show_default=False),
]
Window = Annotated[
    Optional[int],
    _through(
        min=0,
        metavar="N",
        help="Side of a sliding window in pixels; 0: always the whole image at once. "
        "Without it: whole up to 4 megapixels, windows of 1024 that overlap by a quarter beyond.",
    ),
]
Overlap = Annotated[
    Optional[float],
    _through(
        min=0,
        max=0.95,
        help="Share of a --window that the next one covers: 0.5 unless a run's config says otherwise.",
    ),
]


class Blends(str, Enum):
    """The weights of windows, as in tiling.py."""

    gaussian = "gaussian"
    uniform = "uniform"


Blend = Annotated[
    Optional[Blends],
    _through(help="How windows are weighted where they overlap: gaussian by default."),
]


def policy_from(
    own: Any,
    scales: Optional[str],
    flip: Optional[bool],
    window: Optional[int],
    overlap: Optional[float],
    blend: Optional[Blends] = None,
) -> Any:
    """The `Policy` of a run's config, or the default, with what the options say in its place.

    UserError where --scales are no positive numbers.
    """
    asked = {
        "scales": None if scales is None else _scales(scales),
        "flip": flip,
        "window": window,
        "overlap": overlap,
        "blend": blend and blend.value,
    }
    return own._replace(**{key: value for key, value in asked.items() if value is not None})


def _scales(text: str) -> Tuple[float, ...]:
    try:
        scales = tuple(float(scale) for scale in text.split(","))
    except ValueError:
        raise UserError(f"--scales {text!r}: numbers with commas between, like 0.75,1,1.25") from None
    if not all(0 < scale < 100 for scale in scales):
        raise UserError(f"--scales {text}: each must be positive, like 0.75,1,1.25")
    return scales
