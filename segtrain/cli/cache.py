"""segtrain cache."""

import typer

from segtrain.cli.app import app

cache = typer.Typer(help="The decoded samples that data.cache=disk keeps.", no_args_is_help=True)
app.add_typer(cache, name="cache")


@cache.command()
def clear() -> None:
    """Remove them all; a training makes those anew that it needs."""
    from segtrain.data.cache import clear, home

    typer.echo(f"freed {clear() / 2**20:,.1f} MiB in {home()}")
