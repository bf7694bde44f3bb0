"""Seconds and memory per megapixel of evaluation and of prediction, at growing images.

The U-Net of configs/camvid-unet.yaml, untrained, on pictures of shapes: scored as `segtrain eval` does,
and predicted from file to file as `segtrain predict` does. Each case is a process of its own, in turns;
its memory is its peak over that of the smallest picture. "growth" is the time per megapixel that goes
through the network, which are more than the picture's where windows overlap, over that at the side
before: at 1 and below, time grows no faster than the work.

    python scripts/bench_pixels.py [--sides 512,1024,2048,4096] [--rounds 5] [--json FILE]
"""

import resource
import sys
import tempfile
from itertools import count
from pathlib import Path

import segtrain  # noqa: F401  sets the threads before MXNet is loaded  # isort: skip
import cv2
import mxnet as mx
import turns

from segtrain import models
from segtrain.config import load
from segtrain.data import shapes
from segtrain.data.dataset import palette
from segtrain.evaluation.evaluate import evaluate
from segtrain.prediction.infer import Kind, Predictor
from segtrain.prediction.predict import predict
from segtrain.trained import Trained

CONFIG = Path(__file__).parents[1] / "configs/camvid-unet.yaml"
TASKS = ("evaluation", "prediction")
NOISE = 1.2


def network():
    config = load(CONFIG)
    net = models.network(config.model, len(shapes.CLASSES))
    models.initialize(net, config.model, [mx.cpu()], 0)
    net.hybridize(static_alloc=True, static_shape=True)
    return net


def evaluation(side, home):
    """A function that scores one picture of that side."""
    net = network()
    dataset = shapes.build("val", size=(side, side), val=1)
    sample = dataset.read(0)
    dataset.read = lambda index: sample  # drawing it is no part of evaluation
    predictor = Predictor(net.inference(), mx.cpu(), side=net.side, stride=net.stride)
    return lambda: evaluate(predictor, dataset)


def prediction(side, home):
    """A function that predicts one file of a picture of that side."""
    net = network()
    image = Path(home) / f"{side}.png"
    cv2.imwrite(str(image), shapes.build("val", size=(side, side), val=1).read(0).image[..., ::-1])
    trained = Trained(net, net.stride, net.side, mx.cpu(), shapes.CLASSES, 255, palette(), Kind())
    number = count()
    return lambda: predict(trained, [str(image)], Path(home) / f"{side}-{next(number)}")


def passed(side):
    """The pixels of a picture of that side that go through the network, in windows or at once."""
    net = network()
    windows = Predictor(None, mx.cpu(), side=net.side, stride=net.stride).windows((side, side, 3))
    return side**2 if windows is None else sum(s.stop - s.start for s in windows.spans(side)) ** 2


def work(task, side, home):
    """In a process of its own: the peak of memory in bytes after each turn."""
    go = globals()[task](int(side), home)

    def turn():
        go()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    turns.work(turn)


def main():
    if sys.argv[1:2] == ["--work"]:
        work(*sys.argv[2:])
        return
    parser = turns.parser(__doc__)
    parser.add_argument("--sides", default="512,1024,2048,4096", help="of the pictures, growing")
    options = parser.parse_args()
    sides = [int(side) for side in options.sides.split(",")]
    peaks, found = {}, {}
    for task in TASKS:
        with tempfile.TemporaryDirectory() as home:
            peers = {side: turns.Peer(sys.executable, __file__, task, side, home) for side in sides}
            cases = {side: note(peer, peaks, f"{task}, {side}") for side, peer in peers.items()}
            for side, seconds in turns.take(cases, options.rounds).items():
                found[f"{task}, {side}"] = [s / (side**2 / 1e6) for s in seconds]
            for peer in peers.values():
                peer.close()
    growth, memory = {}, {}
    share = {side: side**2 / passed(side) for side in sides}
    for task in TASKS:
        for before, side in zip(sides, sides[1:]):
            name = f"{task}, {side}"
            grown = turns.ratio(found[name], found[f"{task}, {before}"])
            growth[f"growth: {name}"] = grown * share[side] / share[before]
            more = peaks[name] - peaks[f"{task}, {sides[0]}"]
            memory[name] = more / ((side**2 - sides[0] ** 2) / 1e6)
    made = turns.result(
        __doc__,
        "pixels",
        options.rounds,
        "s per megapixel",
        found,
        growth,
        bars={"at most": dict.fromkeys(growth, NOISE)},
        settings={"sides": sides},
        details={"peak_bytes": peaks, "bytes_per_megapixel": memory},
    )
    turns.finish(made, options.json)
    for name, size in memory.items():
        print(f"  {name:<44}{size / 2**20:>12.1f} MiB per megapixel, {peaks[name] / 2**20:.0f} in all")


def note(peer, peaks, name):
    """A turn of the peer, which keeps its peak of memory."""

    def turn():
        peaks[name] = peer()

    return turn


if __name__ == "__main__":
    main()
