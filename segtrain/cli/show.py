"""segtrain show."""

from pathlib import Path
from typing import Any, Dict, List, Optional

import typer
from typing_extensions import Annotated

from segtrain.cli.app import Debug, Json, app, write_json


@app.command()
def show(
    config: Annotated[Path, typer.Argument(help="The YAML config.")],
    overrides: Annotated[
        Optional[List[str]], typer.Argument(metavar="[KEY=VALUE]...", help="Like model.fold=2")
    ] = None,
    json: Json = None,
    debug: Debug = False,
) -> None:
    """Show a network: its layers, shapes, parameters and FLOPs, without training or data.

    Example:

        segtrain show configs/camvid-gridnet.yaml
    """
    from segtrain import config as configs
    from segtrain.graph import describe

    result = describe(configs.load(config, overrides or []))
    write_json(json, result)
    if str(json) != "-":
        _print(result)


def _print(result: Dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    for column in ("layer", "type", "output"):
        table.add_column(column)
    for column in ("parameters", "MFLOPs"):
        table.add_column(column, justify="right")
    for layer in result["layers"]:
        table.add_row(
            layer["name"],
            layer["type"],
            "x".join(map(str, layer["output_shape"][1:])),
            f"{layer['parameters']:,}" if layer["parameters"] else "",
            f"{layer['flops'] / 1e6:,.1f}" if layer["flops"] else "",
        )
    console = Console()
    console.print(table)
    console.print(
        f"{result['model']}: {result['parameters']:,} parameters, {result['flops'] / 1e9:.2f} GFLOPs "
        f"for one input of {'x'.join(map(str, result['input'][1:]))}, sides in multiples of "
        f"{result['stride']}",
        highlight=False,
    )
