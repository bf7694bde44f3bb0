"""segtrain eval."""

from pathlib import Path
from typing import Any, Dict, Optional

import typer
from typing_extensions import Annotated

from segtrain.cli.app import Debug, Json, app, write_json
from segtrain.cli.options import (
    Blend,
    Devices,
    Flip,
    Format,
    Overlap,
    RunOrBundle,
    Runtime,
    Scales,
    Split,
    Window,
    With,
    policy_from,
)
from segtrain.cli.tables import figure, table

FIGURES = {
    "dice": "mean Dice",
    "pixel_accuracy": "pixel accuracy",
    "mean_accuracy": "mean accuracy",
    "frequency_weighted_iou": "frequency-weighted IoU",
    "kappa": "Cohen's kappa",
    "boundary_iou": "Boundary IoU",
    "boundary_iou_per_image": "Boundary IoU per image",
    "boundary_f1": "boundary F1",
    "boundary_f1_per_image": "boundary F1 per image",
    "ece": "calibration error",
    "rand_error": "Rand error",
    "vi": "variation of information",
    "vi_split": "  of it by splits",
    "vi_merge": "  by merges",
}
COLUMNS = {
    "iou": "IoU",
    "dice": "Dice",
    "precision": "precision",
    "recall": "recall",
    "boundary_iou": "Boundary IoU",
    "boundary_f1": "boundary F1",
}


@app.command("eval")
def evaluate(
    run: RunOrBundle,
    split: Split = "val",
    devices: Devices = "auto",
    others: With = [],
    measures: Annotated[
        str, typer.Option("--metrics", metavar="M,M,...", help="Also: boundary, calibration, segments.")
    ] = "",
    scales: Scales = None,
    flip: Flip = None,
    window: Window = None,
    overlap: Overlap = None,
    blend: Blend = None,
    tolerance: Annotated[
        Optional[float], typer.Option(metavar="MS", min=0, help="Of signals' onsets and offsets, in ms.")
    ] = None,
    predictions: Annotated[
        Optional[Path],
        typer.Option("--save-predictions", metavar="DIR", help="Write the masks that were scored."),
    ] = None,
    csv: Annotated[
        Optional[Path], typer.Option(metavar="FILE", help="Write a row per class and per image.")
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

        segtrain eval runs/camvid-unet --json scores.json --csv scores.csv

        segtrain eval runs/camvid-unet --scales 0.75,1,1.25 --flip --metrics boundary,calibration

        segtrain eval runs/camvid-unet --with runs/camvid-unet-2 --save-predictions masks

        segtrain eval runs/ludb-unet1d --tolerance 40

        segtrain eval bundle --config configs/camvid-unet.yaml --format int8
    """
    from segtrain.data.dataset import open_split
    from segtrain.evaluation.evaluate import as_csv, policy_of
    from segtrain.evaluation.evaluate import evaluate as score
    from segtrain.evaluation.scored import origin
    from segtrain.prediction.infer import write
    from segtrain.prediction.products import mask_writer
    from segtrain.trained import open_ensemble

    trained = open_ensemble([run, *others], devices, format, runtime)
    settings = _settings(run, trained, config)
    dataset = open_split(settings.data, split, trained.classes)
    if tolerance is not None:
        _check_rate(dataset, config or run / "config.yaml")
    result = score(
        trained.predictor(policy_from(policy_of(settings), scales, flip, window, overlap, blend)),
        dataset,
        tolerance_ms=settings.eval.tolerance_ms if tolerance is None else tolerance,
        measures=[name.strip() for name in measures.split(",") if name.strip()],
        keep=mask_writer(predictions, trained, dataset.ids) if predictions else None,
    )
    result.update(origin([run, *others], split))
    _print(result)
    if csv:
        write(csv, as_csv(result).encode())
    write_json(json, result)


def _settings(run: Path, trained: Any, config: Optional[Path]) -> Any:
    """The config whose dataset is scored on: the one given, or the run's own."""
    from segtrain.config import load
    from segtrain.errors import UserError

    if config is None and trained.config is None:
        raise UserError(f"{run} is a bundle: give the config of the dataset with --config")
    return load(config) if config else trained.config


def _check_rate(dataset: Any, config: Path) -> None:
    """UserError where the samples have no times, in which a tolerance is given."""
    from segtrain.errors import UserError

    if getattr(dataset, "rate", None) is None:
        raise UserError(f"--tolerance is for signals of a known rate: set data.rate in {config}")


def _print(result: Dict[str, Any]) -> None:
    """The scores as a table, with the policy they stand under."""
    from rich.console import Console
    from rich.table import Table

    columns = {key: text for key, text in COLUMNS.items() if key in result["per_class"][0]}
    classes = table("class", numbers=(*columns.values(), "pixels"))
    for row in result["per_class"]:
        classes.add_row(row["name"], *[figure(row[key]) for key in columns], f"{row['pixels']:,}")
    console = Console(stderr=True)
    console.print(classes)
    low, high = result["miou_ci95"]
    console.print(
        f"mIoU [bold]{figure(result['miou'])}[/bold] (95% {figure(low)} to {figure(high)}), "
        f"{len(result['images'])} images of {result['split']}, "
        f"{result['images_per_second']:.1f} images/s",
        highlight=False,
    )
    figures = Table.grid(padding=(0, 2))
    for key, text in FIGURES.items():
        if key in result:
            figures.add_row(text, figure(result[key]))
    console.print(figures)
    if "events" in result:
        _print_events(console, result["events"])
    _print_policy(console, result)


def _print_policy(console: Any, result: Dict[str, Any]) -> None:
    """How images went through the network, and what each score is."""
    policy, ignored = result["policy"], result["policy"]["ignore"]
    views = " + ".join(f"{scale:g}" for scale in policy["scales"]) + (", flipped too" * policy["flip"])
    way = f"windows of {policy['window']}" if policy["window"] else "whole images"
    count = len(result["runs"])
    lines = [
        f"policy: {policy['absent_classes']}",
        f"ignored id: {ignored}; {way}, scale {views}" + (f"; mean of {count} runs" * (count > 1)),
        *result.get("measures", {}).values(),
    ]
    for line in lines:
        console.print(line, style="dim", highlight=False)


def _print_events(console: Any, events: Dict[str, Any]) -> None:
    """Onsets and offsets as a table."""
    rows = table("event", numbers=("sensitivity", "PPV", "F1", "error, ms"))
    for row in events["classes"]:
        for kind in ("onset", "offset"):
            found = row[kind]
            figures = [figure(found[k]) for k in ("sensitivity", "ppv", "f1")]
            mean, std = found["mean_ms"], found["std_ms"]
            error = "-" if mean is None else f"{mean:+.1f} ± {std:.1f}"
            rows.add_row(f"{row['name']} {kind}", *figures, error)
    console.print(rows)
    console.print(
        f"mean F1 [bold]{figure(events['mean_f1'])}[/bold] of onsets and offsets within "
        f"{events['tolerance_ms']:g} ms",
        highlight=False,
    )
