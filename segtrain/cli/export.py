"""segtrain export."""

from pathlib import Path

import typer
from typing_extensions import Annotated

from segtrain.cli.app import Debug, Json, app, say, write_json


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    out: Annotated[Path, typer.Option(help="The new folder for the bundle.")],
    json: Json = None,
    debug: Debug = False,
) -> None:
    """Export a run's best checkpoint as a bundle: MXNet symbol + params, model.json, infer.py.

    The bundle is run in a fresh process first, and must give the run's own masks.

    Example:

        segtrain export runs/camvid-unet --out bundle
    """
    from segtrain.export import export as write_bundle

    parity = write_bundle(run, out)
    write_json(json, {"bundle": str(out), "parity": parity})
    say(
        f"{out}: {parity['pixels']} pixels of {len(parity['images'])} images agree with the run "
        f"(largest difference of a score {parity['max_abs_difference']:.2g})",
        f"next: python {out / 'infer.py'} IMAGE... --out masks",
    )
