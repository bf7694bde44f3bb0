"""segtrain doctor."""

from typing import Any, Dict

import typer
from typing_extensions import Annotated

from segtrain.cli.app import Debug, Json, app, write_json
from segtrain.cli.tables import table

_MARKS = {
    "ok": "[green]ok[/green]",
    "wrong": "[bold red]wrong[/bold red]",
    "note": "[yellow]note[/yellow]",
}


@app.command()
def doctor(
    train: Annotated[
        bool, typer.Option("--train/--no-train", help="Time a small training on each device.")
    ] = True,
    json: Json = None,
    debug: Debug = False,
) -> None:
    """Examine this machine: MXNet, CUDA, cards, loader, cores; exit 1 where something is wrong.

    Examples:

        segtrain doctor

        segtrain doctor --no-train --json machine.json
    """
    from tqdm import tqdm

    from segtrain.machines.doctor import examine

    with tqdm(bar_format="looking at {desc}", disable=None, leave=False) as bar:
        result = examine(train, lambda part: bar.set_description_str(part))
    if str(json) != "-":
        _print(result)
    write_json(json, result)
    if not result["passed"]:
        raise typer.Exit(1)


def _print(result: Dict[str, Any]) -> None:
    """The findings as a table, the cures below what is wrong."""
    from rich.console import Console
    from rich.markup import escape

    found = table()
    for column in ("", "", "found"):
        found.add_column(column, overflow="fold")
    for finding in result["findings"]:
        found.add_row(finding["name"], _MARKS[finding["state"]], escape(finding["found"]))
        if finding["cure"]:
            found.add_row("", "", f"[bold]-> {escape(finding['cure'])}[/bold]")
    Console().print(found)
