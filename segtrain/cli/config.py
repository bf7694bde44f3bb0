"""segtrain config."""

from pathlib import Path
from typing import Any, Dict, List, Optional

import typer
from typing_extensions import Annotated

from segtrain.cli.app import Debug, Json, app, say, write_json
from segtrain.cli.options import ConfigOrRun, Overrides
from segtrain.cli.tables import table

config = typer.Typer(help="What a config says: explain a key, compare two, teach an editor.")
app.add_typer(config, name="config", no_args_is_help=True)


@config.command()
def explain(
    source: ConfigOrRun,
    key: Annotated[str, typer.Argument(help="A dotted key, like train.lr, or a section, like train.")],
    overrides: Annotated[Optional[List[str]], Overrides(help="Like train.lr=0.01")] = None,
    json: Json = None,
    debug: Debug = False,
) -> None:
    """Say what a setting is: its value, where that comes from, what else it could be.

    Examples:

        segtrain config explain configs/camvid-unet.yaml train.lr

        segtrain config explain runs/camvid-unet model
    """
    from segtrain import settings

    found = settings.explain(settings.load(source, overrides or []), key)
    write_json(json, [setting._asdict() for setting in found])
    if str(json) == "-":
        return
    if len(found) == 1:
        _print_setting(found[0])
    else:
        _print_settings(found)


@config.command()
def diff(
    a: Annotated[Path, typer.Argument(metavar="A", help="A YAML config, or a run.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another.")],
    json: Json = None,
    debug: Debug = False,
) -> None:
    """List the settings in which two configs or runs differ, written out or by default.

    Examples:

        segtrain config diff runs/camvid-unet runs/camvid-unet-2

        segtrain config diff configs/camvid-unet.yaml configs/camvid-gridnet.yaml --json -
    """
    from segtrain import settings

    rows = settings.difference(settings.load(a), settings.load(b))
    write_json(json, rows)
    if str(json) == "-":
        return
    if not rows:
        typer.echo("no difference")
        return
    _print_table(
        ["key", str(a), str(b)],
        [[row["key"], _text(row, "a"), _text(row, "b")] for row in rows],
    )


@config.command()
def schema(
    out: Annotated[Optional[Path], typer.Option(metavar="FILE", help="Instead of stdout.")] = None,
    debug: Debug = False,
) -> None:
    """Write the JSON Schema by which an editor completes and checks a config.

    Examples:

        segtrain config schema --out segtrain.schema.json
    """
    from segtrain.schema import schema as made

    write_json(out or Path("-"), made())
    if out:
        say(f"{out}: put '# yaml-language-server: $schema=PATH' into a config's first line")


def _print_setting(setting: Any) -> None:
    from segtrain.config import inline

    typer.echo(f"{setting.key} = {inline(setting.value)}")
    facts = {
        "from": setting.origin,
        "default": "none: it must be set" if setting.required else inline(setting.default),
        "type": setting.type,
        "range": setting.range,
        "help": setting.help,
    }
    for name, fact in facts.items():
        if fact:
            typer.echo(f"  {name + ':':9}{fact}")


def _print_settings(found: List[Any]) -> None:
    from segtrain.config import inline

    rows = [[s.key, inline(s.value), s.origin, s.help] for s in found]
    _print_table(["key", "value", "from", "help"], rows)


def _text(row: Dict[str, Any], side: str) -> str:
    from segtrain.config import inline

    return inline(row[side]) if side in row else "-"


def _print_table(columns: List[str], rows: List[List[str]]) -> None:
    from rich.console import Console

    made = table()
    for column in columns:
        made.add_column(column, overflow="fold", no_wrap=column == "key")
    for row in rows:
        made.add_row(*row)
    Console().print(made, markup=False)
