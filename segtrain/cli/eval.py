"""segtrain eval."""

from collections import Counter
from pathlib import Path
from typing import Any, Callable, Dict, Optional, Sequence

import typer
from typing_extensions import Annotated

from segtrain.cli.app import (
    Blend,
    Debug,
    Devices,
    Flip,
    Format,
    Json,
    Overlap,
    Runtime,
    Scales,
    Window,
    With,
    app,
    policy_from,
    write_json,
)

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
    run: Annotated[Path, typer.Argument(metavar="RUN_OR_BUNDLE", help="A run folder or a bundle.")],
    split: Annotated[str, typer.Option(help="The split to score on.")] = "val",
    devices: Devices = "auto",
    others: With = [],
    measures: Annotated[
        str,
        typer.Option("--metrics", metavar="M,M,...", help="Also: boundary, calibration, segments."),
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
    from segtrain.config import load
    from segtrain.data.dataset import open_split
    from segtrain.errors import UserError
    from segtrain.evaluation.evaluate import as_csv, policy_of
    from segtrain.evaluation.evaluate import evaluate as score
    from segtrain.evaluation.scored import recipe_of
    from segtrain.prediction.infer import write
    from segtrain.run import Run
    from segtrain.trained import open_ensemble

    trained = open_ensemble([run, *others], devices, format, runtime)
    if trained.config is None and config is None:
        raise UserError(f"{run} is a bundle: give the config of the dataset with --config")
    settings = load(config) if config else trained.config
    assert settings is not None
    policy = policy_from(scales, flip, window, overlap, policy_of(settings), blend)
    dataset = open_split(settings.data, split, trained.classes)
    if tolerance is not None and getattr(dataset, "rate", None) is None:
        where = config or run / "config.yaml"
        raise UserError(f"--tolerance is for signals of a known rate: set data.rate in {where}")
    result = score(
        trained.predictor(policy),
        dataset,
        tolerance_ms=settings.eval.tolerance_ms if tolerance is None else tolerance,
        measures=[name.strip() for name in measures.split(",") if name.strip()],
        keep=_keeper(trained, predictions, dataset.ids),
    )
    result.update(split=split, runs=[str(path) for path in (run, *others)])
    alone = trained.config is not None and not others
    result["recipe"] = recipe_of(Run.open(run)) if alone else None
    _print(result)
    if csv:
        write(csv, as_csv(result).encode())
    write_json(json, result)


def _keeper(trained: Any, folder: Optional[Path], names: Sequence[str]) -> Callable:
    """What writes each mask into the folder: a palette PNG, or a CSV of a record's labels.

    A record's file is without the record's ending, unless another one differs in that alone.
    """
    from segtrain.prediction import infer, pictures, records

    def bare(name: str) -> str:
        ending = Path(name).suffix
        return name[: -len(ending)] if ending in records.ENDINGS else name

    alike = Counter(map(bare, names))

    def keep(name: str, mask: Any) -> None:
        if folder is None:
            return
        if trained.form:
            content, ending = records.table(mask, trained.classes, trained.form.rate), ".csv"
            name = bare(name) if alike[bare(name)] == 1 else name
        else:
            content, ending = pictures.encode(mask, trained.palette), ".png"
        infer.write(folder / f"{name}{ending}", content)

    return keep


def _print(result: Dict[str, Any]) -> None:
    """The scores as a table, with the policy they stand under."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    table.add_column("class")
    columns = {key: text for key, text in COLUMNS.items() if key in result["per_class"][0]}
    for column in (*columns.values(), "pixels"):
        table.add_column(column, justify="right")
    for row in result["per_class"]:
        table.add_row(row["name"], *[_text(row[key]) for key in columns], f"{row['pixels']:,}")
    console = Console(stderr=True)
    console.print(table)
    low, high = result["miou_ci95"]
    console.print(
        f"mIoU [bold]{_text(result['miou'])}[/bold] (95% {_text(low)} to {_text(high)}), "
        f"{len(result['images'])} images of {result['split']}, "
        f"{result['images_per_second']:.1f} images/s",
        highlight=False,
    )
    figures = Table.grid(padding=(0, 2))
    for key, text in FIGURES.items():
        if key in result:
            figures.add_row(text, _text(result[key]))
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
