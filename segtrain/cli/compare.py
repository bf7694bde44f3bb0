"""segtrain compare."""

from pathlib import Path
from typing import Any, Dict, List

import typer
from typing_extensions import Annotated

from segtrain.cli.app import Debug, Json, app, say, write_json
from segtrain.cli.options import Devices, Flip, Overlap, Scales, Window, policy_from
from segtrain.cli.tables import figure, table

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
        return scored(path, split, devices, lambda own: policy_from(own, scales, flip, window, overlap))

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

    columns = ("A", "B", "B - A", "95% CI", "images won by A", "by B", "p (Holm)")
    rows = table("IoU", numbers=columns)
    for row in [*result["per_class"], {"name": "mean", **result["miou"]}]:
        low, high = row["ci95"]
        style = ("green" if row["difference"] > 0 else "red") if row["different"] else None
        rows.add_row(
            row["name"],
            figure(row["a"]),
            figure(row["b"]),
            figure(row["difference"], "+.4f"),
            f"{figure(low, '+.4f')} to {figure(high, '+.4f')}",
            str(row["wins"]["a"]),
            str(row["wins"]["b"]),
            figure(row.get("p_holm", row["p"]), ".2g"),
            style=style,
        )
    console = Console(stderr=True)
    console.print(rows)
    sides = (f"{side.upper()}: {', '.join(paths)}" for side, paths in result["runs"].items())
    console.print("; ".join(sides), highlight=False)
    console.print(f"[bold]{result['verdict']}[/bold]", highlight=False)
    console.print(f"policy: {result['policy']['comparison']}", style="dim", highlight=False)
