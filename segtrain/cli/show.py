"""segtrain show."""

from pathlib import Path
from typing import Any, Dict, List, Optional

import typer
from typing_extensions import Annotated

from segtrain.cli.app import Debug, Json, app, say, write_json
from segtrain.cli.options import ConfigOrRun, Overrides
from segtrain.cli.tables import table


@app.command()
def show(
    config: ConfigOrRun,
    overrides: Annotated[Optional[List[str]], Overrides(help="Like model.fold=2")] = None,
    svg: Annotated[
        Optional[Path], typer.Option(metavar="FILE", help="Draw the network: rows are resolutions.")
    ] = None,
    augment: Annotated[
        Optional[Path], typer.Option(metavar="PNG", help="Draw samples and the crops made of them.")
    ] = None,
    image: Annotated[
        Optional[Path],
        typer.Option(metavar="FILE", help="With --tap: what a run's network makes of it."),
    ] = None,
    tap: Annotated[
        Optional[str], typer.Option(metavar="NAME", help="The block whose feature maps to draw: e1, d0.")
    ] = None,
    out: Annotated[
        Optional[Path], typer.Option(metavar="PNG", help="With --tap: where the picture goes.")
    ] = None,
    json: Json = None,
    debug: Debug = False,
) -> None:
    """Show a network: its layers, shapes, parameters and FLOPs, without training or data.

    Examples:

        segtrain show configs/camvid-gridnet.yaml

        segtrain show configs/camvid-gridnet.yaml --svg gridnet.svg

        segtrain show mydata.yaml --augment crops.png

        segtrain show runs/camvid-unet --image photo.jpg --tap e1 --out e1.png
    """
    from segtrain import config as configs
    from segtrain.errors import UserError
    from segtrain.graph import drawing
    from segtrain.graph.graph import describe
    from segtrain.prediction import infer

    if tap or image or out:
        if not (tap and image and out):
            raise UserError("a picture of feature maps needs all three: --image, --tap and --out")
        _draw_maps(config, image, tap, out)
        return
    path = config / "config.yaml" if config.is_dir() else config
    loaded = configs.load(path, overrides or [])
    if augment:
        _draw_crops(loaded, augment)
        return
    result = describe(loaded)
    write_json(json, result)
    if svg:
        infer.write(svg, drawing.svg(result).encode())
        say(f"drawn to {svg}")
    elif str(json) != "-":
        _print(result)


def _draw_crops(config: Any, out: Path) -> None:
    from segtrain.data.dataset import open_split
    from segtrain.data.loader import recipe
    from segtrain.errors import UserError
    from segtrain.graph.sheet import augmented
    from segtrain.prediction import infer

    if config.model.dim == 1:
        raise UserError("--augment draws images; for signals see segtrain predict --overlay")
    dataset = open_split(config.data, "train")
    how = recipe(dataset, config.data, config.model.in_channels, config.seed)
    infer.write(out, augmented(how))
    say(f"{', '.join(config.data.augment) or 'crops alone'}: drawn to {out}")


def _draw_maps(run: Path, image: Path, tap: str, out: Path) -> None:
    from segtrain.data.files import decode
    from segtrain.errors import UserError
    from segtrain.graph import taps
    from segtrain.prediction import infer
    from segtrain.trained import open_trained

    trained = open_trained(run)
    try:
        pixels = decode(image, trained.kind)
    except infer.InputError as error:
        raise UserError(str(error)) from None
    maps = taps.values(trained, pixels, tap)
    infer.write(out, taps.picture(maps))
    say(f"{tap}: {maps.shape[0]} maps of {maps.shape[1]}x{maps.shape[2]}, drawn to {out}")


def _print(result: Dict[str, Any]) -> None:
    from rich.console import Console

    layers = table("layer", "type", "output", numbers=("parameters", "MFLOPs"))
    for layer in result["layers"]:
        layers.add_row(
            layer["name"],
            layer["type"],
            "x".join(map(str, layer["output_shape"][1:])),
            f"{layer['parameters']:,}" if layer["parameters"] else "",
            f"{layer['flops'] / 1e6:,.1f}" if layer["flops"] else "",
        )
    console = Console()
    console.print(layers)
    console.print(
        f"{result['model']}: {result['parameters']:,} parameters, {result['flops'] / 1e9:.2f} GFLOPs "
        f"for one input of {'x'.join(map(str, result['input'][1:]))}, sides in multiples of "
        f"{result['stride']}",
        highlight=False,
    )
