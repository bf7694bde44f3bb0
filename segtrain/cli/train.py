"""segtrain train."""

import re
from pathlib import Path
from typing import List, Optional

import typer
from typing_extensions import Annotated

from segtrain.cli.app import Debug, Json, app, say, write_json
from segtrain.cli.options import ConfigFile, Devices, Overrides


@app.command()
def train(
    config: ConfigFile,
    overrides: Annotated[Optional[List[str]], Overrides(help="Like train.lr=0.01")] = None,
    out: Annotated[
        Optional[Path], typer.Option(help="The run folder.", show_default="runs/NAME-OF-CONFIG")
    ] = None,
    devices: Devices = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
    max_time: Annotated[
        Optional[str], typer.Option(metavar="T", help="Save and stop after 90s, 30m, 2h or 1.5d.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="A few steps, timed; leaves a picture of the batch.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing but errors.")] = False,
    json: Json = None,
    debug: Debug = False,
) -> None:
    """Train a network. Ctrl-C, or a file STOP in the run folder, saves and stops.

    Examples:

        segtrain train configs/camvid-unet.yaml data.root=camvid

        segtrain train configs/camvid-unet.yaml train.epochs=10 --out runs/short --devices gpu:0,1

        segtrain train configs/camvid-unet.yaml --dry-run

        segtrain train configs/camvid-unet.yaml --resume --max-time 2h

        segtrain train mydata.yaml model.name=mynet --plugins mynet.py
    """
    from segtrain import config as configs
    from segtrain.data import ahead

    seconds = _seconds(max_time)
    effective = configs.load(config, overrides or [])
    if effective.data.workers:
        ahead.serve()
    with ahead.looking(effective.data):  # the import of MXNet takes seconds
        from segtrain.training.train import run_path
        from segtrain.training.train import train as run_training

    folder = out or run_path(config, resume)
    if dry_run:
        from segtrain.training.dryrun import rehearse

        write_json(json, rehearse(effective, folder, devices))
        return
    run = run_training(effective, folder, devices, resume, max_seconds=seconds, quiet=quiet)
    if not run.mine:
        return
    write_json(json, {"run": str(run.path), "best": run.best(), "history": run.history()})
    if not quiet:
        page = run.path / "report.html"
        say(
            f"done: {run.path}" + (f"; open {page}" if page.exists() else ""),
            f"next: segtrain eval {run.path}    segtrain export {run.path} --out bundle",
        )


def _seconds(text: Optional[str]) -> float:
    from segtrain.errors import UserError

    if text is None:
        return float("inf")
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text.strip())
    if not match:
        raise UserError(f"--max-time {text!r}: write a number and s, m, h or d, like 2h")
    return float(match.group(1)) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[match.group(2)]
