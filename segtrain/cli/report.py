"""segtrain report."""

from pathlib import Path
from typing import Optional

import typer
from typing_extensions import Annotated

from segtrain.cli.app import Debug, app, say
from segtrain.cli.options import Devices, RunFolder, Split


@app.command("report")
def write_report(
    run: RunFolder,
    out: Annotated[
        Optional[Path],
        typer.Option(metavar="FILE", help="Where it goes.", show_default="RUN/report.html"),
    ] = None,
    split: Split = "val",
    images: Annotated[
        int, typer.Option(min=0, max=50, help="How many of the worst to show, and how many of the best.")
    ] = 6,
    devices: Devices = "auto",
    debug: Debug = False,
) -> None:
    """Score a run's best checkpoint and write report.html: one file, works offline, prints.

    Examples:

        segtrain report runs/camvid-unet

        segtrain report runs/camvid-unet --split test --images 20 --out test.html
    """
    from segtrain.report import report

    path = report(run, out, split, images=images, device=devices)
    say(f"open {path}")
