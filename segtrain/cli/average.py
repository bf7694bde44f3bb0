"""segtrain average."""

from pathlib import Path
from typing import Optional

import typer
from typing_extensions import Annotated

from segtrain.cli.app import Debug, Json, app, say, write_json
from segtrain.cli.options import Devices, RunFolder


@app.command()
def average(
    run: RunFolder,
    last: Annotated[int, typer.Option(min=2, help="How many checkpoints, the newest ones.")] = 5,
    out: Annotated[
        Optional[Path], typer.Option(help="The new run folder.", show_default="RUN-average")
    ] = None,
    devices: Devices = "auto",
    json: Json = None,
    debug: Debug = False,
) -> None:
    """Average the weights of a run's last checkpoints into a new run, and score both.

    The checkpoints are those in RUN/checkpoints whose weights differ; batch norm's statistics are
    computed anew over the training split (stochastic weight averaging, Izmailov et al. 2018).

    Example:

        segtrain average runs/camvid-unet --last 5
    """
    from segtrain.evaluation.swa import average as merge

    folder = out or run.with_name(f"{run.name}-average")
    result = merge(run, folder, last, devices)
    names = [f"{one['name']} (epoch {one['epoch']})" for one in result["averaged"]]
    scores = result["miou"]
    say(
        f"averaged {', '.join(names)} into {folder}",
        f"validation mIoU: {scores['best']:.4f} of the best checkpoint (A), "
        f"{scores['average']:.4f} of the average (B)",
        result["comparison"]["verdict"],
        f"next: segtrain eval {folder}",
    )
    write_json(json, {**result, "run": str(folder)})
