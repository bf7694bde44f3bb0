"""Cost against work: a training step at growing batches, sides, widths and devices; the data path
with more processes; opening longer lists. A table, and with --png a plot.

Each row's `per_work` is its time per unit of work (pixels, or FLOPs for the widths) in parts of the
first row's of its kind: 1 and below means that nothing grows faster than its work.

    python scripts/bench_scale.py [--rounds 5] [--quick] [--json FILE] [--png FILE]
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

import segtrain  # noqa: F401  (sets the threads before MXNet is loaded)  # isort: skip
import mxnet as mx
from rich.console import Console
from rich.table import Table

from segtrain.config import parse
from segtrain.data.dataset import open_split
from segtrain.data.loader import Batch
from segtrain.graph import graph
from segtrain.training import timing
from segtrain.training.learner import Learner
from segtrain.training.train import prepare

WIDTHS, CLASSES = [16, 32, 64, 128], 8


class Truth:
    classes, ignore = [str(i) for i in range(CLASSES)], 255

    def __init__(self, count):
        self.ids = [""] * count


def step(batch=4, side=128, times=1, devices=1):
    """A function that takes a step, and its work: FLOPs of the forward pass."""
    widths = [width * times for width in WIDTHS]
    model = {"name": "unet", "widths": widths, "classes": CLASSES}
    config = parse({"model": model, "data": {"crop": [side, side]}})
    contexts = [mx.cpu(i) for i in range(devices)]
    learner = Learner(config, Truth(batch), np.ones(CLASSES), contexts, 1000)
    chance = np.random.default_rng(0)
    images = chance.integers(0, 256, (batch, 3, side, side)).astype(np.uint8)
    masks = chance.integers(0, CLASSES, (batch, side, side)).astype(np.uint8)
    made = Batch(images, masks, list(range(batch)))
    flops = graph.describe(config)["flops"] * batch

    def go():
        learner.step(made, 0)
        mx.nd.waitall()

    return go, flops


def loading(workers, images):
    """A function that takes an epoch of the data path, and its work: crops."""
    data = {"name": "shapes", "train": images, "size": [256, 256], "crop": [256, 256]}
    config = parse({"data": {**data, "workers": workers}, "model": {"widths": [8, 16]}})
    holder = prepare(config, [mx.cpu()])
    made = holder.__enter__()

    def go():
        timing.data(made, 0, images)

    return go, images, lambda: holder.__exit__(None, None, None)


def opening(entries, home):
    """A function that opens a list of that many pairs, and its work: entries."""
    (home / "images").mkdir(exist_ok=True)
    names = [(f"images/{i}.png", f"images/{i}_mask.png") for i in range(entries)]
    for name in (name for pair in names for name in pair):
        (home / name).touch()
    (home / "train.txt").write_text("".join(f"{a} {b}\n" for a, b in names))
    data = {"name": "list", "root": str(home), "files": {"train": "train.txt"}, "classes": ["a", "b"]}
    config = parse({"data": data})

    def go():
        open_split(config.data, "train")

    return go, entries


def timed(go, rounds):
    go()
    seconds = []
    for _ in range(rounds):
        begun = time.perf_counter()
        go()
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds)


def measure(rounds, quick):
    rows = []

    def note(kind, value, seconds, work):
        first = next((r for r in rows if r["kind"] == kind), None)
        per_work = seconds / work
        relative = per_work / (first["seconds"] / first["work"]) if first else 1.0
        rows.append({"kind": kind, "value": value, "seconds": seconds, "work": work})
        rows[-1].update(units_per_second=work / seconds, per_work=relative)

    for kind, values in (
        ("batch", (1, 2, 4, 8, 16)),
        ("side", (128, 256, 512) if quick else (128, 256, 512, 1024)),
        ("times", (1, 2) if quick else (1, 2, 4)),
        ("devices", (1, 2)),
    ):
        for value in values:
            go, flops = step(**{"batch": 1} if kind == "side" else {}, **{kind: value})
            note(kind, value, timed(go, rounds), flops)
    for workers in (0, 1, 2, 4):
        go, work, close = loading(workers, 64 if quick else 256)
        note("workers", workers, timed(go, rounds), work)
        close()
    with tempfile.TemporaryDirectory() as home:
        for entries in (1000, 10_000, 100_000) if quick else (1000, 10_000, 100_000, 1_000_000):
            go, work = opening(entries, Path(home))
            note("entries", entries, timed(go, min(rounds, 3)), work)
    return rows


def show(rows):
    table = Table(box=None, header_style="bold")
    for name in ("", "", "seconds", "of the work per second", "time per work"):
        table.add_column(name, justify="right")
    for row in rows:
        cells = f"{row['seconds']:.4f}", f"{row['units_per_second']:.3g}", f"{row['per_work']:.2f}"
        table.add_row(row["kind"], str(row["value"]), *cells)
    Console().print(table)


def draw(rows, path):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for kind in dict.fromkeys(row["kind"] for row in rows):
        chosen = [row for row in rows if row["kind"] == kind]
        work = [row["work"] / chosen[0]["work"] for row in chosen]
        if len(set(work)) > 1:
            axes.plot(work, [row["per_work"] for row in chosen], "o-", label=kind)
    axes.set_xscale("log", base=2)
    axes.set_xlabel("work, in parts of the smallest")
    axes.set_ylabel("time per work")
    axes.axhline(1, color="grey", lw=0.8)
    axes.legend()
    figure.savefig(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="without the largest of each")
    parser.add_argument("--json")
    parser.add_argument("--png")
    options = parser.parse_args()
    rows = measure(options.rounds, options.quick)
    show(rows)
    if options.png:
        draw(rows, options.png)
    if options.json:
        Path(options.json).write_text(json.dumps({"rounds": options.rounds, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
