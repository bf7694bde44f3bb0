"""segtrain compare."""

from pathlib import Path
from typing import Any, Dict, List, Optional

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
    say,
    write_json,
)

_Scored = "A run folder, or a result of `segtrain eval --json`."


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help=_Scored)],
    b: Annotated[Path, typer.Argument(metavar="B", help=_Scored)],
    more_a: Annotated[
        List[Path],
        typer.Option(metavar="RUN", help="Another run of A's config, with another seed; repeatable."),
    ] = [],
    more_b: Annotated[
        List[Path],
        typer.Option(metavar="RUN", help="Another run of B's config, with another seed; repeatable."),
    ] = [],
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
    read from there while the checkpoint, the images and the options are the same. One run of each
    compares two networks; to compare two configs, give several runs of each.

    Examples:

        segtrain compare runs/camvid-unet runs/camvid-unetpp --json verdict.json

        segtrain compare runs/a-1 runs/b-1 --more-a runs/a-2 --more-b runs/b-2 --more-b runs/b-3

        segtrain compare plain.json flipped.json --across-policies
    """
    from segtrain.evaluation.compare import compare as judge
    from segtrain.evaluation.scored import other_seeds, read, scored

    def result(path: Path) -> Dict[str, Any]:
        if path.is_file():
            return read(path)
        return scored(path, split, devices, lambda own: policy_from(scales, flip, window, overlap, own))

    of_a, of_b = ([result(path) for path in more] for more in (more_a, more_b))
    found = judge(result(a), result(b), across, of_a, of_b)
    found.update(runs={"a": [str(path) for path in (a, *more_a)], "b": [str(p) for p in (b, *more_b)]})
    _print(found)
    if found["seeds"]["spread"] is None:
        others = [("--more-a", path) for path in other_seeds(a) if path != b]
        others += [("--more-b", path) for path in other_seeds(b) if path != a]
        if others:
            say(
                "add runs of the same config: " + " ".join(f"{option} {path}" for option, path in others)
            )
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
    sides = (f"{side.upper()}: {', '.join(paths)}" for side, paths in result["runs"].items())
    console.print("; ".join(sides), highlight=False)
    console.print(f"[bold]{result['verdict']}[/bold]", highlight=False)
    console.print(f"policy: {result['policy']['comparison']}", style="dim", highlight=False)


def _text(value: Optional[float], form: str = ".4f") -> str:
    return "-" if value is None else format(value, form)
