"""segtrain demo: the main job on a synthetic dataset."""

from pathlib import Path
from typing import Any, Dict, Optional

import typer
from typing_extensions import Annotated

from segtrain.cli.app import Debug, Json, app, say, write_json
from segtrain.cli.options import Devices

CONFIG = """\
# The demo: circles, squares and triangles of any colour, told apart by their shape.
model: {name: unet, fold: 2, widths: [16, 32, 64, 128]}
data:
  name: shapes
  crop: [96, 96]
  augment: [flip, vflip, color(0.2)]
train:
  epochs: 24
  batch: 8
  lr: 0.004
  optimizer: adamw
  warmup: 1
  loss: {ce: 1, dice: 1}
eval: {every: 6}
"""


@app.command()
def demo(
    out: Annotated[
        Optional[Path], typer.Option(help="A new folder for it all.", show_default="demo")
    ] = None,
    devices: Devices = "auto",
    json: Json = None,
    debug: Debug = False,
) -> None:
    """Train, score, export and predict on a built-in synthetic dataset, in a few minutes.

    Example:

        segtrain demo --out demo
    """
    from segtrain.training.train import run_path

    folder = out or run_path(Path("demo"), resume=False, home=Path())
    _refuse_taken(folder)
    result = _work(folder, devices)
    write_json(json, result)
    say(
        f"mIoU {result['miou']:.4f} on {result['images']} validation images",
        f"look at {folder / 'run' / 'report.html'} and {folder / 'predictions' / 'overlays'}",
        f"next: segtrain eval {folder / 'run'}",
        f"      segtrain predict {folder / 'bundle'} YOUR-IMAGES --out masks",
        f"      segtrain train YOUR-CONFIG.yaml    ({folder / 'config.yaml'} is an example)",
    )


def _refuse_taken(folder: Path) -> None:
    from segtrain.errors import UserError

    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists: give another --out")


def _work(folder: Path, devices: str) -> Dict[str, Any]:
    import cv2

    from segtrain import config as configs
    from segtrain.data.dataset import open_split
    from segtrain.evaluation.evaluate import evaluate, policy_of
    from segtrain.export.export import export
    from segtrain.prediction.infer import write
    from segtrain.prediction.predict import predict
    from segtrain.prediction.products import Products
    from segtrain.trained import open_trained
    from segtrain.training.train import train

    write(folder / "config.yaml", CONFIG.encode())
    config = configs.load(folder / "config.yaml")
    say(f"training on synthetic shapes into {folder / 'run'}")
    train(config, folder / "run", devices)
    trained = open_trained(folder / "run", devices)
    val, policy = open_split(config.data, "val"), policy_of(config)
    scores = evaluate(trained.predictor(policy), val)
    say("exporting, and checking the bundle in a fresh process")
    parity = export(folder / "run", folder / "bundle")
    for index in range(8):
        picture = cv2.cvtColor(val.read(index).image, cv2.COLOR_RGB2BGR)
        png = cv2.imencode(".png", picture)[1].tobytes()
        write(folder / "images" / f"{val.ids[index]}.png", png)
    bundle = open_trained(folder / "bundle", devices)
    predict(bundle, [str(folder / "images")], folder / "predictions", products=Products(overlay=True))
    return {"miou": scores["miou"], "images": len(val.ids), "scores": scores, "parity": parity}
