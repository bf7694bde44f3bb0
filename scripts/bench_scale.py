"""Cost against work: a training step at growing batches, sides, widths, devices; data at growing counts.

    batch, side, widths  a step of a U-Net 16-32-64-128; its work: FLOPs
    devices              the same batch on one logical CPU and on two; its work doesn't change
    workers              crops from that many processes, more than there are cores too; its work: crops
    opening              a list of 10^3 to 10^6 pairs of files
    again                looking at a folder of 10^3 to 10^5 pairs which nothing has changed in
    epoch                the order of 10^3 to 10^6 samples, until the first batch is there

In each part all values take turns. "growth" is a value's time per unit of work over the least of
those before it: at 1 and below nothing grows faster than its work. A figure of 1.2 is taken for noise.

    python scripts/bench_scale.py [--parts batch,side,...] [--rounds 5] [--plot FILE] [--json FILE]
"""

import tempfile
from itertools import count
from pathlib import Path

import numpy as np

import segtrain  # noqa: F401  (sets the threads before MXNet is loaded)  # isort: skip
import cv2
import mxnet as mx
import turns
from rich.console import Console
from rich.table import Table

from segtrain.config import parse
from segtrain.data.dataset import Sample, open_split
from segtrain.data.loader import Batch, open_loader
from segtrain.data.scan import scan
from segtrain.graph import graph
from segtrain.training.learner import Learner

WIDTHS, CLASSES = [16, 32, 64, 128], 8
VALUES = {
    "batch": (1, 2, 4, 8, 16),
    "side": (128, 256, 512, 1024),
    "widths": (1, 2, 4),
    "devices": (1, 2),
    "workers": (0, 1, 2, 4),
    "opening": (10**3, 10**4, 10**5, 10**6),
    "again": (10**3, 10**4, 10**5),
    "epoch": (10**3, 10**4, 10**5, 10**6),
}
NOISE = 1.2


class Truth:
    """What a learner must know of a dataset."""

    classes, ignore = [str(i) for i in range(CLASSES)], 255


# ---- each part gives, for a value, a function and the work that it does


def step(batch=4, side=128, widths=1, devices=1):
    model = {"name": "unet", "widths": [width * widths for width in WIDTHS], "classes": CLASSES}
    config = parse({"model": model, "data": {"crop": [side, side]}})
    contexts = [mx.cpu(i) for i in range(devices)]
    learner = Learner(config, Truth, np.ones(CLASSES), contexts, 1000)
    chance = np.random.default_rng(0)
    images = chance.integers(0, 256, (batch, 3, side, side)).astype(np.uint8)
    masks = chance.integers(0, CLASSES, (batch, side, side)).astype(np.uint8)
    made, repeats = Batch(images, masks, list(range(batch))), max(1, 16 * 128**2 // (batch * side**2))

    def go():
        for number in range(repeats):  # short ones several times in a row
            learner.step(made, number)
        mx.nd.waitall()
        return repeats

    return go, batch, graph.describe(config)["flops"] * batch


def batch(value, _):
    return step(batch=value)


def side(value, _):
    return step(batch=1, side=value)


def widths(value, _):
    return step(widths=value)


def devices(value, _):
    return step(devices=value)


def workers(value, _):
    size = [256, 256]
    augment = ["scale(0.5, 2)", "flip", "color(0.3)"]
    data = {"name": "shapes", "train": 256, "size": size, "crop": size, "augment": augment}
    config, epochs = parse({"data": data}), count()
    loader = open_loader(open_split(config.data, "train"), config.data, 3, 8, 0, value)

    def go():
        for _ in loader.epoch(next(epochs)):
            pass
        return 1

    return go, 256, 256


def opening(value, home):
    config = listed(value, home)

    def go():
        open_split(config.data, "train")
        return 1

    return go, value, value


def epoch(value, home):
    data = listed(value, home).data
    dataset, epochs = Small(open_split(data, "train")), count()
    loader = open_loader(dataset, data, 3, 8, 0, 0)

    def go():
        next(loader.epoch(next(epochs)))
        return 1

    return go, value, value


def again(value, home):
    data = {"name": "folder", "root": str(pictures(value, home)), "classes": ["a", "b"]}
    config = parse({"data": data})
    dataset = open_split(config.data, "train")
    scan(dataset, "train", config.data)

    def go():
        scan(dataset, "train", config.data)
        return 1

    return go, value, value


# ---- datasets of many entries


class Small:
    """A dataset whose samples are all one black picture, so that only their number counts."""

    def __init__(self, dataset):
        self._dataset = dataset

    def __getattr__(self, name):
        return getattr(self._dataset, name)

    def read(self, index):
        return Sample(np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64), np.uint8))


def listed(entries, home):
    """The config of a list of that many pairs of files, which are there and empty."""
    folder = home / "listed"
    folder.mkdir(exist_ok=True)
    names = [(f"{i}.png", f"{i}_mask.png") for i in range(entries)]
    for name in (name for pair in names for name in pair if not (folder / name).exists()):
        (folder / name).touch()
    path = home / f"{entries}.txt"
    path.write_text("".join(f"listed/{a} listed/{b}\n" for a, b in names))
    data = {"name": "list", "root": str(home), "files": {"train": path.name}, "classes": ["a", "b"]}
    return parse({"data": {**data, "crop": [64, 64]}})


def pictures(entries, home):
    """A folder of that many pairs, all of them links to one picture and one mask."""
    root = home / f"pictures-{entries}"
    image, mask = home / "image.png", home / "mask.png"
    cv2.imwrite(str(image), np.full((16, 16, 3), 128, np.uint8))
    cv2.imwrite(str(mask), np.tile(np.arange(2, dtype=np.uint8), (16, 8)))
    for source, kind in ((image, "images"), (mask, "masks")):
        folder = root / "train" / kind
        folder.mkdir(parents=True)
        for i in range(entries):
            if i % 10000 == 0:  # a file has only so many links
                source = folder / f".{i}.png"
                source.write_bytes((image if kind == "images" else mask).read_bytes())
            (folder / f"{i}.png").hardlink_to(source)
    return root


# ---- what comes of it


def measure(part, rounds, home):
    """The rows of a part: a dict for each value."""
    cases = {value: globals()[part](value, home) for value in VALUES[part]}
    found = turns.take({value: go for value, (go, _, _) in cases.items()}, rounds)
    rows, least = [], float("inf")
    for value, (_, items, work) in cases.items():
        seconds = 1 / turns.medians(found)[value]
        per_work = seconds / work
        growth = per_work / min(least, per_work) if rows else 1.0
        least = min(least, per_work)
        row = {"part": part, "value": value, "seconds": seconds, "items_per_second": items / seconds}
        rows.append({**row, "work": work, "growth": growth})
    return rows


def show(rows):
    table = Table(box=None, header_style="bold")
    for name in ("", "", "seconds", "images or entries/s", "growth"):
        table.add_column(name, justify="right")
    for row in rows:
        cells = f"{row['seconds']:.4f}", f"{row['items_per_second']:,.1f}", f"{row['growth']:.2f}"
        table.add_row(row["part"], f"{row['value']:,}", *cells)
    Console().print(table)


def draw(rows, path):
    """Images or entries per second of each part, over its values."""
    from matplotlib.figure import Figure

    parts = list(dict.fromkeys(row["part"] for row in rows))
    figure = Figure(figsize=(10, 2.6 * -(-len(parts) // 4)), layout="constrained")
    for number, part in enumerate(parts, 1):
        axes = figure.add_subplot(-(-len(parts) // 4), min(4, len(parts)), number)
        chosen = [row for row in rows if row["part"] == part]
        values = [str(row["value"]) for row in chosen]
        best = min(row["seconds"] / row["work"] for row in chosen)
        speeds = [best / (row["seconds"] / row["work"]) for row in chosen]
        axes.plot(values, speeds, "o-")
        axes.set_ylim(0, 1.05)
        axes.set_title(part, fontsize=10)
        axes.tick_params(labelsize=8)
    figure.supylabel("work per second, in parts of the most", fontsize=9)
    figure.savefig(path)


def main():
    parser = turns.parser(__doc__)
    parser.add_argument("--parts", default=",".join(VALUES), help="of " + ",".join(VALUES))
    parser.add_argument("--plot", help="a picture, .png or .svg")
    options = parser.parse_args()
    parts = options.parts.split(",")
    rows = []
    with tempfile.TemporaryDirectory() as home:
        for part in parts:
            rows += measure(part, options.rounds, Path(home))
    show(rows)
    growth = {
        f"{part}: the most growth": max(row["growth"] for row in rows if row["part"] == part)
        for part in parts
    }
    speeds = {f"{row['part']} {row['value']}": [row["items_per_second"]] for row in rows}
    made = turns.result(
        __doc__,
        "scale",
        options.rounds,
        "images or entries/s",
        speeds,
        growth,
        bars={"at most": dict.fromkeys(growth, NOISE)},
        details={"rows": rows},
    )
    if options.plot:
        Path(options.plot).parent.mkdir(parents=True, exist_ok=True)
        draw(rows, options.plot)
    turns.finish(made, options.json, told=True)


if __name__ == "__main__":
    main()
