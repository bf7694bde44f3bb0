"""segtrain eval."""

from pathlib import Path
from typing import Any, Dict, Optional

import typer
from typing_extensions import Annotated

from segtrain.cli.app import (
    Debug,
    Devices,
    Flip,
    Format,
    Json,
    Overlap,
    Runtime,
    Scales,
    Window,
    app,
    policy_from,
    write_json,
)


@app.command("eval")
def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN_OR_BUNDLE", help="A run folder or a bundle.")],
    split: Annotated[str, typer.Option(help="The split to score on.")] = "val",
    devices: Devices = "auto",
    scales: Scales = None,
    flip: Flip = None,
    window: Window = None,
    overlap: Overlap = None,
    tolerance: Annotated[
        Optional[float], typer.Option(metavar="MS", min=0, help="Of signals' onsets and offsets, in ms.")
    ] = None,
    config: Annotated[
        Optional[Path], typer.Option(help="For a bundle: the config whose dataset it is scored on.")
    ] = None,
    format: Format = None,
    runtime: Runtime = None,
    json: Json = None,
    debug: Debug = False,
) -> None:
    """Score a run's best checkpoint, or a bundle, at native resolution.

    Examples:

        segtrain eval runs/camvid-unet --json scores.json

        segtrain eval runs/camvid-unet --scales 0.75,1,1.25 --flip

        segtrain eval runs/ludb-unet1d --tolerance 40

        segtrain eval bundle --config configs/camvid-unet.yaml --format int8
    """
    from segtrain.config import load
    from segtrain.data.dataset import open_split
    from segtrain.errors import UserError
    from segtrain.evaluate import evaluate as score
    from segtrain.evaluate import policy_of
    from segtrain.trained import open_trained

    trained = open_trained(run, devices, format, runtime)
    if trained.config is None and config is None:
        raise UserError(f"{run} is a bundle: give the config of the dataset with --config")
    settings = load(config) if config else trained.config
    assert settings is not None
    policy = policy_from(scales, flip, window, overlap, policy_of(settings))
    dataset = open_split(settings.data, split, trained.classes)
    if tolerance is not None and getattr(dataset, "rate", None) is None:
        where = config or run / "config.yaml"
        raise UserError(f"--tolerance is for signals of a known rate: set data.rate in {where}")
    allowed = settings.eval.tolerance_ms if tolerance is None else tolerance
    result = score(trained.predictor(policy), dataset, tolerance_ms=allowed)
    assert result is not None
    result["split"] = split
    _print(result)
    write_json(json, result)


def _print(result: Dict[str, Any]) -> None:
    """The scores as a table, with the policy they stand under."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    table.add_column("class")
    for column in ("IoU", "Dice", "precision", "recall", "pixels"):
        table.add_column(column, justify="right")
    for row in result["per_class"]:
        figures = [_text(row[k]) for k in ("iou", "dice", "precision", "recall")]
        table.add_row(row["name"], *figures, f"{row['pixels']:,}")
    console = Console(stderr=True)
    console.print(table)
    low, high = result["miou_ci95"]
    console.print(
        f"mIoU [bold]{_text(result['miou'])}[/bold] (95% {_text(low)} to {_text(high)}), "
        f"pixel accuracy {_text(result['pixel_accuracy'])}, {len(result['images'])} images of "
        f"{result['split']}, {result['images_per_second']:.1f} images/s",
        highlight=False,
    )
    if "events" in result:
        _print_events(console, result["events"])
    console.print(f"policy: {result['policy']['absent_classes']}", style="dim", highlight=False)


def _print_events(console: Any, events: Dict[str, Any]) -> None:
    """Onsets and offsets as a table."""
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    table.add_column("event")
    for column in ("sensitivity", "PPV", "F1", "error, ms"):
        table.add_column(column, justify="right")
    for row in events["classes"]:
        for kind in ("onset", "offset"):
            found = row[kind]
            figures = [_text(found[k]) for k in ("sensitivity", "ppv", "f1")]
            mean, std = found["mean_ms"], found["std_ms"]
            error = "-" if mean is None else f"{mean:+.1f} ± {std:.1f}"
            table.add_row(f"{row['name']} {kind}", *figures, error)
    console.print(table)
    console.print(
        f"mean F1 [bold]{_text(events['mean_f1'])}[/bold] of onsets and offsets within "
        f"{events['tolerance_ms']:g} ms",
        highlight=False,
    )


def _text(value: Optional[float]) -> str:
    return "-" if value is None else f"{value:.4f}"
