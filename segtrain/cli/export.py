"""segtrain export."""

from pathlib import Path
from typing import Any, List, Optional

import typer
from typing_extensions import Annotated

from segtrain.cli.app import Debug, Json, app, say, write_json


@app.command()
def export(
    run: Annotated[Optional[Path], typer.Argument(help="A run folder.", show_default=False)] = None,
    out: Annotated[Optional[Path], typer.Option(help="The new folder for the bundle.")] = None,
    formats: Annotated[
        Optional[List[str]],
        typer.Option("--format", help="Beside mxnet: onnx, int8, float16. May be given several times."),
    ] = None,
    fold: Annotated[
        bool, typer.Option(help="Fold batch norms into convolutions, where that is exact to 1e-5.")
    ] = True,
    check: Annotated[
        Optional[Path],
        typer.Option(metavar="BUNDLE", help="Check a bundle instead; nothing of it is run."),
    ] = None,
    json: Json = None,
    debug: Debug = False,
) -> None:
    """Export a run's best checkpoint as a bundle: MXNet symbol + params, model.json, infer.py.

    Each format is run in a fresh process first, and must give the run's own masks: mxnet in every
    pixel, onnx in 99.99% and float16 in 99.9% of them, int8 within a point of mIoU.

    Examples:

        segtrain export runs/camvid-unet --out bundle

        segtrain export runs/camvid-unet --out bundle --format onnx --format int8

        segtrain export --check bundle
    """
    from segtrain.errors import UserError

    if check is not None:
        if run is not None or out is not None:
            raise UserError("--check BUNDLE goes alone, without a run and --out")
        _check(check, json)
        return
    if run is None or out is None:
        raise UserError("write segtrain export RUN --out BUNDLE, or segtrain export --check BUNDLE")
    from segtrain.export.export import export as write_bundle

    parity = write_bundle(run, out, formats or [], fold)
    write_json(json, {"bundle": str(out), "parity": parity})
    say(*(_line(name, found) for name, found in parity["formats"].items()))
    say(f"{out} is written; next: python {out / 'infer.py'} INPUT... --out masks")


def _check(folder: Path, json: Optional[Path]) -> None:
    from segtrain.export import bundle

    about = bundle.check(folder)
    ours = bundle.has_our_code(about)
    found = {"bundle": str(folder), "whole": True, "formats": list(about.formats), "code_compared": ours}
    write_json(json, found)
    say(
        f"{folder}: whole, as segtrain {about.segtrain} wrote it: {', '.join(about.formats)}; "
        f"{len(about.classes)} classes"
    )
    if not ours:
        say(
            f"its code claims to be segtrain {about.segtrain}'s, which isn't here to compare it with: "
            "read it before you run infer.py; segtrain itself runs none of it"
        )


def _line(name: str, found: Any) -> str:
    """How a format did, in one line."""
    line = f"{name}: {found['equal_argmax']:.4%} of {found['pixels']} pixels as the run has them"
    line += f", largest difference of a score {found['max_abs_difference']:.2g}"
    if found["miou"] is not None:
        line += f", mIoU {found['miou']:.4f} (run {found['miou_of_run']:.4f})"
    speeds = ", ".join(
        f"{speed:.3g} in {runtime}" for runtime, speed in found["images_per_second"].items()
    )
    size = "x".join(map(str, found["measured_on"]))
    line += f"; {found['bytes'] / 1e6:.1f} MB"
    return line + (f"; images/s of {size} here: {speeds}" if speeds else "")
