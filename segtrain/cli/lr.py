"""segtrain lr."""

from pathlib import Path
from typing import List, Optional

import typer
from typing_extensions import Annotated

from segtrain.cli.app import Debug, Json, app, say, write_json
from segtrain.cli.options import ConfigFile, Devices, Overrides


@app.command()
def lr(
    config: ConfigFile,
    overrides: Annotated[Optional[List[str]], Overrides(help="Like train.batch=16")] = None,
    low: Annotated[float, typer.Option("--from", metavar="LR", help="The first learning rate.")] = 1e-6,
    high: Annotated[float, typer.Option("--to", metavar="LR", help="The last one.")] = 10,
    steps: Annotated[int, typer.Option(min=10, help="How many steps lie between them.")] = 100,
    out: Annotated[Optional[Path], typer.Option(metavar="PNG", help="Plot the loss over it.")] = None,
    devices: Devices = "auto",
    json: Json = None,
    debug: Debug = False,
) -> None:
    """Find a learning rate: raise it from step to step, and see where the loss falls fastest.

    Prints it as train.lr=VALUE; exits with 1 where the loss never fell.

    Examples:

        segtrain lr configs/camvid-unet.yaml data.root=camvid --out lr.png

        segtrain lr mydata.yaml train.optimizer=sgd --from 1e-4 --to 1 --steps 200 --json lr.json
    """
    from segtrain import config as configs
    from segtrain.errors import SegtrainError
    from segtrain.prediction import infer
    from segtrain.training.lr_range import plot, range_test

    test = range_test(configs.load(config, overrides or []), devices, low, high, steps)
    if out:
        infer.write(out, plot(test))
    write_json(json, test)
    diverged = f", diverged at {test['diverged']:.2g}" if test["diverged"] else ""
    say(f"{len(test['curve'])} steps: lowest loss at {test['lowest']:.2g}{diverged}")
    if test["suggestion"] is None:
        raise SegtrainError(
            f"the loss didn't fall between {low:g} and {high:g}: give another range, or more --steps"
        )
    if str(json) != "-":
        typer.echo(f"train.lr={test['suggestion']:g}")
    say(test["rule"])
