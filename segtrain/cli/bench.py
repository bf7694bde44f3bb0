"""segtrain bench."""

from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import typer
from typing_extensions import Annotated

from segtrain.cli.app import Debug, Json, app, say, write_json
from segtrain.cli.options import Devices, Overrides
from segtrain.cli.tables import table


@app.command()
def bench(
    target: Annotated[Path, typer.Argument(metavar="BUNDLE_OR_CONFIG", help="A bundle, or a config.")],
    overrides: Annotated[Optional[List[str]], Overrides(help="Of a config.")] = None,
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
    """Time a bundle's formats, or the parts of a config's training, side by side.

    A bundle: latency and images/s of each format in each runtime installed here. A config: images/s of
    the data path, the bare step, both together, and evaluation, and which is the bottleneck. They
    run in turn, so that whatever else the machine does slows all of them alike.

    Examples:

        segtrain bench bundle --json speed.json

        segtrain bench bundle --run runs/camvid-unet --size 360x480 --batch 1

        segtrain bench configs/camvid-unet.yaml data.workers=2
    """
    if target.is_file():
        result = _config(target, overrides or [], devices, rounds)
    else:
        result = _bundle(target, run, size, batch, rounds, devices)
    write_json(json, result)


def _config(path: Path, overrides: List[str], devices: str, rounds: int) -> Dict[str, Any]:
    from segtrain.bench import measure
    from segtrain.config import load

    result = measure(load(path, overrides), devices, rounds)
    for name, speed in result["images_per_second"].items():
        say(f"{name:<11}{speed:9.1f} images/s")
    say(f"loop efficiency {result['loop_efficiency']:.3f} of the bare step, {result['workers']} workers")
    say(f"bottleneck: {result['bottleneck']}")
    return result


def _bundle(
    bundle: Path, run: Optional[Path], size: Optional[str], batch: str, rounds: int, devices: str
) -> Dict[str, Any]:
    from segtrain.errors import UserError
    from segtrain.export.speed import bundle as time_bundle
    from segtrain.trained import open_trained

    if not (bundle / "model.json").is_file():
        raise UserError(
            f"{bundle} is no bundle and no config: give what segtrain export wrote, or a YAML"
        )
    sides, batches = _inputs(size, batch)
    beside = {"the run": open_trained(run, devices).net} if run else {}
    result = time_bundle(bundle, devices, sides, batches, rounds, beside)
    _print(result)
    return result


def _inputs(size: Optional[str], batch: str) -> Tuple[Optional[List[int]], List[int]]:
    """The sides and the batches to time; UserError where they aren't whole numbers from 1 on."""
    from segtrain.errors import UserError

    try:
        sides = [int(side) for side in size.split("x")] if size else None
        batches = [int(count) for count in batch.split(",")]
        if min([*(sides or []), *batches]) < 1:
            raise ValueError
    except ValueError:
        raise UserError("--size is like 256x256, and --batch like 1,4") from None
    return sides, batches


def _print(result: Dict[str, Any]) -> None:
    from rich.console import Console

    rows = table()
    rows.collapse_padding, rows.pad_edge = True, False  # all fits 80 columns
    for column in ("format", "runtime"):
        rows.add_column(column, no_wrap=True)
    for column in ("batch", "images/s", "p50 ms", "p90 ms", "p99 ms", "speedup", "equal"):
        rows.add_column(column, justify="right", no_wrap=True)
    for row in result["rows"]:
        latency = [f"{row['latency_ms'][key]:.1f}" for key in ("p50", "p90", "p99")]
        figures = [f"{row['speedup']:.2f}", f"{row['equal_argmax']:.3%}"]
        speed = f"{row['images_per_second']:.1f}"
        rows.add_row(row["format"], row["runtime"], str(row["batch"]), speed, *latency, *figures)
    Console(stderr=True).print(rows)
    say(*(f"left out: {name} ({why})" for name, why in result["left_out"].items()))
    sizes = "x".join(map(str, result["input"]["shape"]))
    say(f"{sizes} {result['input']['dtype']} on {result['device']}, {result['rounds']} rounds")
