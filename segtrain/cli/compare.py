"""segtrain compare."""

from pathlib import Path
from typing import Any, Dict, Optional

import typer
from typing_extensions import Annotated

from segtrain.cli.app import (
    Debug,
    Devices,
    Flip,
    Json,
    Overlap,
    Scales,
    Window,
    app,
    policy_from,
    write_json,
)

_Scored = "A run folder, or a result of `segtrain eval --json`."


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help=_Scored)],
    b: Annotated[Path, typer.Argument(metavar="B", help=_Scored)],
    split: Annotated[str, typer.Option(help="The split to score runs on.")] = "val",
    devices: Devices = "auto",
    scales: Scales = None,
    flip: Flip = None,
    window: Window = None,
    overlap: Overlap = None,
    across: Annotated[
        bool,
        typer.Option(
            "--across-policies", help="Compare ways of inference, like with and without --flip."
        ),
    ] = False,
    json: Json = None,
    debug: Debug = False,
) -> None:
    """Say whether B is better than A, and by how much, or that the images can't tell.

    Both are scored on the same images; the scores of a run are kept in its folder `evaluations`, and
    read from there while the checkpoint, the images and the options are the same.

    Examples:

        segtrain compare runs/camvid-unet runs/camvid-unetpp --json verdict.json

        segtrain compare plain.json flipped.json --across-policies
    """
    from segtrain.evaluation.compare import compare as judge
    from segtrain.evaluation.scored import read, scored

    def result(path: Path) -> Dict[str, Any]:
        if path.is_file():
            return read(path)
        return scored(path, split, devices, lambda own: policy_from(scales, flip, window, overlap, own))

    found = judge(result(a), result(b), across)
    found.update(runs={"a": str(a), "b": str(b)})
    _print(found)
    write_json(json, found)


def _print(result: Dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    table.add_column("IoU")
    for column in ("A", "B", "B - A", "95% CI", "images won by A", "by B", "p (Holm)"):
        table.add_column(column, justify="right")
    for row in [*result["per_class"], {"name": "mean", **result["miou"]}]:
        low, high = row["ci95"]
        style = ("green" if row["difference"] > 0 else "red") if row["different"] else None
        table.add_row(
            row["name"],
            _text(row["a"]),
            _text(row["b"]),
            _text(row["difference"], "+.4f"),
            f"{_text(low, '+.4f')} to {_text(high, '+.4f')}",
            str(row["wins"]["a"]),
            str(row["wins"]["b"]),
            _text(row.get("p_holm", row["p"]), ".2g"),
            style=style,
            end_section=False,
        )
    console = Console(stderr=True)
    console.print(table)
    console.print(f"A: {result['runs']['a']}, B: {result['runs']['b']}", highlight=False)
    console.print(f"[bold]{result['verdict']}[/bold]", highlight=False)
    console.print(f"policy: {result['policy']['comparison']}", style="dim", highlight=False)


def _text(value: Optional[float], form: str = ".4f") -> str:
    return "-" if value is None else format(value, form)
