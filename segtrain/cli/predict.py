"""segtrain predict."""

from pathlib import Path
from typing import List

import typer
from typing_extensions import Annotated

from segtrain.cli.app import (
    Debug,
    Devices,
    Flip,
    Format,
    Json,
    Overlap,
    Runtime,
    Scales,
    Window,
    app,
    policy_from,
    say,
    write_json,
)


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(metavar="RUN_OR_BUNDLE", help="A run folder or a bundle.")],
    inputs: Annotated[List[str], typer.Argument(metavar="INPUT...", help="Files, folders, globs.")],
    out: Annotated[Path, typer.Option(help="The folder for the masks.")],
    devices: Devices = "auto",
    overlay: Annotated[bool, typer.Option("--overlay", help="Write masks over images too.")] = False,
    scales: Scales = None,
    flip: Flip = None,
    window: Window = None,
    overlap: Overlap = None,
    format: Format = None,
    runtime: Runtime = None,
    json: Json = None,
    debug: Debug = False,
) -> None:
    """Write a mask for each image: a palette PNG of the same size, its pixels the class ids.

    For a network of signals, write a CSV for each record: sample, time, class and its name.

    Examples:

        segtrain predict runs/camvid-unet photos/ --out masks --overlay

        segtrain predict bundle 'video/*.jpg' --out masks

        segtrain predict bundle photos/ --out masks --runtime openvino

        segtrain predict runs/ludb-unet1d records/ --out labels --overlay
    """
    from segtrain.infer import Policy
    from segtrain.predict import predict as write_masks
    from segtrain.trained import open_trained

    policy = policy_from(scales, flip, window, overlap, Policy())
    trained = open_trained(model, devices, format, runtime)
    written = write_masks(trained, inputs, out, policy, overlay)
    write_json(json, {"masks": [str(path) for path in written], "classes": trained.classes})
    say(f"{len(written)} masks in {out}" + (f", overlays in {out / 'overlays'}" if overlay else ""))
