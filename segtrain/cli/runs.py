"""segtrain runs."""

import sys
from pathlib import Path
from typing import Any, Dict, List

import typer
from typing_extensions import Annotated

from segtrain.cli.app import Debug, Json, app, say, write_json
from segtrain.cli.tables import figure, table


@app.command()
def runs(
    folder: Annotated[Path, typer.Argument(help="Where the runs are, however deep.")] = Path("runs"),
    sort: Annotated[
        str,
        typer.Option(
            metavar="KEY", help="name, model, miou, epoch, state, images_per_second, seconds or date."
        ),
    ] = "date",
    json: Json = None,
    debug: Debug = False,
) -> None:
    """List the runs with their scores, the best or the newest first.

    Examples:

        segtrain runs

        segtrain runs runs/camvid --sort miou --json scores.json
    """
    from segtrain.runs import runs as found

    rows = found(folder, sort)
    write_json(json, rows)
    if str(json) == "-":
        return
    if not rows:
        say(f"no runs in {folder}; `segtrain train CONFIG` makes one")
        return
    _print(rows)
    for row in rows:
        if row["problem"]:
            say(f"{row['name']}: {row['problem']}")


def _print(rows: List[Dict[str, Any]]) -> None:
    from rich.console import Console

    listed = table()
    for column in ("run", "model"):
        listed.add_column(column, overflow="fold")
    for column in ("mIoU", "epochs", "state", "images/s", "time", "date"):
        listed.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        broken = row["epochs"] is None
        listed.add_row(
            row["name"],
            row["model"] or "-",
            figure(row["miou"]),
            "-" if broken else f"{row['epoch']}/{row['epochs']}",
            row["state"],
            figure(row["images_per_second"], ".1f"),
            "-" if broken else _time(row["seconds"]),
            row["date"][:16],
        )
    width = None if sys.stdout.isatty() else 200  # in a file a name can be whole
    Console(width=width).print(listed, markup=False)


def _time(seconds: float) -> str:
    """Seconds as H:MM:SS."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
