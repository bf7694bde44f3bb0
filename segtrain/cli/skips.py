"""segtrain skips."""

from pathlib import Path
from typing import Any, Dict, Optional

import typer
from typing_extensions import Annotated

from segtrain.cli.app import Debug, Json, app, say, write_json
from segtrain.cli.options import Devices, RunFolder
from segtrain.cli.tables import table


@app.command()
def skips(
    run: RunFolder,
    split: Annotated[str, typer.Option(help="The part of the dataset to score on.")] = "val",
    devices: Devices = "auto",
    png: Annotated[Optional[Path], typer.Option(metavar="FILE", help="Draw a bar chart.")] = None,
    json: Json = None,
    debug: Debug = False,
) -> None:
    """Show what each skip connection is worth: the score with that skip cut.

    Example:

        segtrain skips runs/camvid-unet --png skips.png
    """
    from segtrain.data.dataset import open_split
    from segtrain.errors import UserError
    from segtrain.evaluation.evaluate import policy_of
    from segtrain.graph.skips import chart, worth
    from segtrain.prediction import infer
    from segtrain.trained import open_trained

    trained = open_trained(run, devices)
    if trained.config is None:
        raise UserError(f"{run} is a bundle; give the run folder that it came from")
    dataset = open_split(trained.config.data, split)
    result = worth(trained, dataset, policy_of(trained.config))
    result["split"] = split
    _print(result)
    write_json(json, result)
    if png:
        infer.write(png, chart(result))
        say(f"drawn to {png}")


def _print(result: Dict[str, Any]) -> None:
    from rich.console import Console

    most = max(abs(row["worth"]) for row in result["skips"]) or 1
    rows = table("skip", "shape", numbers=("mIoU without", "worth"))
    rows.add_column("")
    for row in result["skips"]:
        bar = "█" * round(24 * abs(row["worth"]) / most)
        style = "green" if row["worth"] >= 0 else "red"
        rows.add_row(
            row["name"],
            "x".join(map(str, row["shape"])),
            f"{row['miou']:.4f}",
            f"{row['worth']:+.4f}",
            f"[{style}]{bar}",
        )
    console = Console(stderr=True)
    console.print(rows)
    console.print(
        f"mIoU with all skips [bold]{result['miou']:.4f}[/bold], {result['images']} images of "
        f"{result['split']}; each skip was cut alone, without training anew",
        highlight=False,
    )
