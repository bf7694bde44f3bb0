"""segtrain bench."""

from pathlib import Path
from typing import Any, Dict, Optional

import typer
from typing_extensions import Annotated

from segtrain.cli.app import Debug, Devices, Json, app, say, write_json


@app.command()
def bench(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle.")],
    run: Annotated[
        Optional[Path], typer.Option(help="The run that it came from, to be timed beside it.")
    ] = None,
    size: Annotated[
        Optional[str], typer.Option(metavar="HxW", help="Of the input; 256x256 by default.")
    ] = None,
    batch: Annotated[str, typer.Option(metavar="N,N,...", help="Images at a time.")] = "1,4",
    rounds: Annotated[int, typer.Option(min=1, help="Runs of each, in turn.")] = 10,
    devices: Devices = "auto",
    json: Json = None,
    debug: Debug = False,
) -> None:
    """Time a bundle's formats side by side: latency and images/s, in each runtime installed here.

    They run in turn, so that whatever else the machine does slows all of them alike.

    Examples:

        segtrain bench bundle --json speed.json

        segtrain bench bundle --run runs/camvid-unet --size 360x480 --batch 1
    """
    from segtrain.errors import UserError
    from segtrain.speed import bundle as time_bundle
    from segtrain.trained import open_trained

    if not (bundle / "model.json").is_file():
        raise UserError(f"{bundle} is no bundle: give one that segtrain export wrote")
    try:
        sides = [int(side) for side in size.split("x")] if size else None
        batches = [int(count) for count in batch.split(",")]
    except ValueError:
        raise UserError("--size is like 256x256, and --batch like 1,4") from None
    if min([*(sides or [1]), *batches]) < 1:
        raise UserError("--size is like 256x256, and --batch like 1,4")
    beside = {"the run": open_trained(run, devices).net} if run else {}
    result = time_bundle(bundle, devices, sides, batches, rounds, beside)
    _print(result)
    write_json(json, result)


def _print(result: Dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    for column in ("format", "runtime"):
        table.add_column(column, no_wrap=True)
    for column in ("batch", "images/s", "p50 ms", "p90 ms", "p99 ms", "speedup", "equal"):
        table.add_column(column, justify="right")
    for row in result["rows"]:
        latency = [f"{row['latency_ms'][key]:.1f}" for key in ("p50", "p90", "p99")]
        figures = [f"{row['speedup']:.2f}", f"{row['equal_argmax']:.3%}"]
        speed = f"{row['images_per_second']:.1f}"
        table.add_row(row["format"], row["runtime"], str(row["batch"]), speed, *latency, *figures)
    Console(stderr=True).print(table)
    say(*(f"left out: {name} ({why})" for name, why in result["left_out"].items()))
    sizes = "x".join(map(str, result["input"]["shape"]))
    say(f"{sizes} {result['input']['dtype']} on {result['device']}, {result['rounds']} rounds")
