"""segtrain train."""

from pathlib import Path
from typing import List, Optional

import typer
from typing_extensions import Annotated

from segtrain.cli.app import Debug, Devices, Json, app, say, write_json


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="The YAML config.")],
    overrides: Annotated[
        Optional[List[str]], typer.Argument(metavar="[KEY=VALUE]...", help="Like train.lr=0.01")
    ] = None,
    out: Annotated[
        Optional[Path], typer.Option(help="The run folder.", show_default="runs/NAME-OF-CONFIG")
    ] = None,
    devices: Devices = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
    json: Json = None,
    debug: Debug = False,
) -> None:
    """Train a network; Ctrl-C saves first.

    Examples:

        segtrain train configs/camvid-unet.yaml data.root=camvid

        segtrain train configs/camvid-unet.yaml train.epochs=10 --out runs/short --devices gpu:0,1
    """
    from segtrain import config as configs
    from segtrain.train import run_path
    from segtrain.train import train as run_training

    effective = configs.load(config, overrides or [])
    folder = out or run_path(config, resume)
    run = run_training(effective, folder, devices, resume)
    write_json(json, {"run": str(run.path), "best": run.best(), "history": run.history()})
    say(
        f"done: {run.path}",
        f"next: segtrain eval {run.path}    segtrain export {run.path} --out bundle",
    )
