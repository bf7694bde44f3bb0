"""segtrain predict."""

from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any, Dict, List, Optional

import typer
from typing_extensions import Annotated

from segtrain.cli.app import Debug, Json, app, say, write_json
from segtrain.cli.options import (
    Blend,
    Devices,
    Flip,
    Format,
    Overlap,
    RunOrBundle,
    Runtime,
    Scales,
    Window,
    With,
    policy_from,
)

_more = partial(typer.Option, rich_help_panel="What is written beside the masks")
_video = partial(typer.Option, rich_help_panel="Videos and cameras")
_work = partial(typer.Option, rich_help_panel="How the inputs are worked through")


class _Maps(str, Enum):
    npz = "npz"
    png = "png"


class _Outlines(str, Enum):
    geojson = "geojson"
    coco = "coco"


@app.command()
def predict(
    model: RunOrBundle,
    inputs: Annotated[
        List[str],
        typer.Argument(metavar="INPUT...", help="Images, videos, folders, globs, or camera:0."),
    ],
    out: Annotated[Path, typer.Option(help="The folder for the masks.")],
    devices: Devices = "auto",
    others: With = [],
    overlay: Annotated[
        bool, _more("--overlay", help="The input with its mask over it: overlays/.")
    ] = False,
    colour: Annotated[
        bool, _more("--colour", help="The mask as an RGB PNG, for tools without palettes: colours/.")
    ] = False,
    entropy: Annotated[
        bool,
        _more("--entropy", help="How unsure the network is of each pixel, as a heat map: entropy/."),
    ] = False,
    probabilities: Annotated[
        Optional[_Maps],
        _more(help="Of all classes: float16 (classes, H, W), or an 8-bit PNG for each: probabilities/."),
    ] = None,
    polygons: Annotated[
        Optional[_Outlines],
        _more(
            help="Outlines in pixels: a geojson for each image in polygons/, or polygons.json of all."
        ),
    ] = None,
    scales: Scales = None,
    flip: Flip = None,
    window: Window = None,
    overlap: Overlap = None,
    blend: Blend = None,
    frames: Annotated[
        Optional[int], _video(min=1, metavar="N", help="Stop each after N frames.")
    ] = None,
    each_frame: Annotated[
        bool,
        _video("--each-frame", help="Of each frame too all that an image gets: NAME/000000.png, ..."),
    ] = False,
    resume: Annotated[
        bool,
        _work(
            "--resume",
            help="Go on where the same model was stopped: leave out inputs whose files are there.",
        ),
    ] = False,
    batch: Annotated[
        Optional[int],
        _work(
            min=1,
            metavar="N",
            help="Images of one size, or windows, at a time.",
            show_default="up to 8 that hold 512x512 pixels",
        ),
    ] = None,
    workers: Annotated[
        int,
        _work(
            min=1, metavar="N", help="Threads that read, and as many that write, while the network runs."
        ),
    ] = 2,
    format: Format = None,
    runtime: Runtime = None,
    json: Json = None,
    debug: Debug = False,
) -> None:
    """Write a mask for each input: a palette PNG of the same size, its pixels the class ids.

    A video gets a video of its masks in colours, at its frame rate, and exact masks with --each-frame.
    Of a network of signals each record gets a CSV: sample, time, class and its name.

    Ctrl-C finishes the image (of a camera, the video); a video file that it stops begins anew with
    --resume, because its film can't be gone on with. An input that can't be used is named, the
    others are done, and the exit code is 2. predict.jsonl in the folder notes what was made of what.

    Examples:

        segtrain predict runs/camvid-unet photos/ --out masks --overlay

        segtrain predict bundle 'more/*.jpg' scan.tif --out masks --polygons geojson --resume

        segtrain predict runs/camvid-unet drive.mp4 --out films --overlay

        segtrain predict runs/camvid-unet camera:0 --frames 250 --out films

        segtrain predict runs/a photos/ --with runs/b --with runs/c --out masks

        segtrain predict bundle photos/ --out masks --runtime openvino

        segtrain predict runs/ludb-unet1d records/ --out labels --overlay
    """
    from segtrain.prediction.infer import Policy
    from segtrain.prediction.journal import fingerprint
    from segtrain.prediction.predict import How
    from segtrain.prediction.predict import predict as write_masks
    from segtrain.prediction.products import Products
    from segtrain.trained import open_ensemble
    from segtrain.training.stopping import StopRequest

    models = [model, *others]
    policy = policy_from(Policy(), scales, flip, window, overlap, blend)
    maps, outlines = (option and option.value for option in (probabilities, polygons))
    products = Products(overlay, colour, entropy, maps, outlines)
    trained = open_ensemble(models, devices, format, runtime)
    how = How(fingerprint(models, format, runtime), resume, batch, workers, frames, each_frame)
    with StopRequest() as stop:
        result = write_masks(trained, inputs, out, policy, products, how, stop)
    write_json(json, result)
    say(_summary(result, out))
    _refuse_unfinished(result)


def _summary(result: Dict[str, Any], out: Path) -> str:
    made, skipped = len(result["masks"]), result["skipped"]
    speed = (made - skipped) / max(result["seconds"], 1e-9)
    already = f", {skipped} of them from before" if skipped else ""
    return f"{made} mask{'s' * (made != 1)} in {out}{already} ({speed:.1f} inputs/s)"


def _refuse_unfinished(result: Dict[str, Any]) -> None:
    """UserError where inputs couldn't be used, Stopped where it was asked to stop before the end."""
    from segtrain.errors import Stopped, UserError

    if result["failed"]:
        few = len(result["failed"])
        raise UserError(f"{few} input{'s' * (few != 1)} can't be used: named above, the others are done")
    if result["stopped"]:
        raise Stopped("; ".join(["stopped", *_cut_off(result), "add --resume to go on"]))


def _cut_off(result: Dict[str, Any]) -> List[str]:
    """What is lost of a video that was being made."""
    cut = result["cut_off"]
    if cut is None:
        return []
    of = f" of {cut['count']}" if cut["count"] else ""
    return [f"{cut['source']} was at frame {cut['frames']}{of}, and will begin anew"]
