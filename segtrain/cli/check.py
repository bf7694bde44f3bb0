"""segtrain check."""

from pathlib import Path
from typing import Any, Dict, List, Optional

import typer
from typing_extensions import Annotated

from segtrain.cli.app import Debug, Json, app, say, write_json
from segtrain.cli.options import ConfigFile, Overrides
from segtrain.cli.tables import table


@app.command()
def check(
    config: ConfigFile,
    overrides: Annotated[Optional[List[str]], Overrides(help="Like data.root=mydata")] = None,
    sheet: Annotated[
        Optional[Path], typer.Option(metavar="PNG", help="Draw samples with their masks over them.")
    ] = None,
    json: Json = None,
    debug: Debug = False,
) -> None:
    """Look for what would spoil a training, in every file; exit 1 where there is something.

    Examples:

        segtrain check mydata.yaml

        segtrain check mydata.yaml --sheet samples.png --json findings.json
    """
    from segtrain import check as checks
    from segtrain import config as configs
    from segtrain.errors import UserError
    from segtrain.graph.sheet import sheet as draw
    from segtrain.prediction import infer

    data = checks.look(configs.load(config, overrides or []))
    result = checks.report(data)
    if str(json) != "-":
        _print(result)
    write_json(json, result)
    if sheet and result["splits"] and len(data.config.data.crop) == 1:
        raise UserError("--sheet draws images; for signals see segtrain predict --overlay")
    if sheet:
        infer.write(sheet, draw([found.dataset for found in data.splits.values()]))
        say(f"drawn to {sheet}")
    if not result["passed"]:
        raise typer.Exit(1)


def _print(result: Dict[str, Any]) -> None:
    from rich.console import Console

    console = Console()
    splits = result["splits"]
    rows = table("class", numbers=[_head(split, found) for split, found in splits.items()])
    for name in next(iter(splits.values()), {"classes": {}})["classes"]:
        rows.add_row(
            name, *[f"{100 * found['classes'].get(name, 0):.2f} %" for found in splits.values()]
        )
    console.print(rows)
    for finding in result["findings"]:
        _print_finding(console, finding)
    errors = sum(finding["error"] for finding in result["findings"])
    others = len(result["findings"]) - errors
    verdict = "nothing would spoil the training" if not errors else f"{errors} to mend before training"
    more = f"; {others} worth a look" if others else ""
    console.print(f"[bold]{verdict}{more}[/bold]")


def _head(split: str, found: Dict[str, Any]) -> str:
    sizes = " to ".join("x".join(map(str, size)) for size in found["sizes"])
    return f"{split}: {found['images']} images, {sizes}"


def _print_finding(console: Any, finding: Dict[str, Any]) -> None:
    from rich.markup import escape

    mark = "[red]error[/red]" if finding["error"] else "[yellow]look[/yellow]"
    console.print(
        f"\n{mark} {finding['split']}, {finding['kind']}: {escape(finding['why'])}", highlight=False
    )
    names = finding["files"]
    for name in names[:3]:
        console.print(f"      {escape(name)}", highlight=False, style="dim")
    if len(names) > 3:
        console.print(f"      and {len(names) - 3} more (--json has them all)", style="dim")
    console.print(f"  [green]do[/green]  {escape(finding['fix'])}", highlight=False)
