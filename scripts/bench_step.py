"""A training step of segtrain against plain Gluon's, interleaved: the ratio of images per second.

U-Net 32-64-128-256-512, 21 classes, batch 4, 256x256, SGD with momentum, on the CPU. Plain Gluon
is the same network, hybridized, under SoftmaxCrossEntropyLoss(axis=1), with MXNet's own default
of threads replaced by segtrain's, so that the ratio is of the code alone.

    python scripts/bench_step.py [--rounds 5] [--json FILE]
"""

import argparse
import json
import statistics
import time

import numpy as np

import segtrain  # sets the threads before MXNet is loaded  # isort: skip
import mxnet as mx
from mxnet import autograd, gluon

from segtrain import models
from segtrain.config import parse
from segtrain.data.loader import Batch
from segtrain.learner import Learner

CLASSES = 21
CONFIG = {
    "model": {"name": "unet", "widths": [32, 64, 128, 256, 512]},
    "train": {"lr": 0.01, "optimizer": "sgd"},
}


class Truth:
    classes = [str(i) for i in range(CLASSES)]
    ignore = 255
    ids = [str(i) for i in range(4)]


def ours(images, masks):
    learner = Learner(parse(CONFIG), Truth, np.ones(CLASSES), [mx.cpu()], 1000)
    batch = Batch(images, masks, list(range(len(images))))

    def step(number):
        learner.step(batch, number)
        mx.nd.waitall()

    return step


def plain(images, masks):
    config = parse(CONFIG)
    net = models.network(config.model, CLASSES)
    models.initialize(net, config.model, [mx.cpu()], 0)
    net.hybridize(static_alloc=True, static_shape=True)
    loss = gluon.loss.SoftmaxCrossEntropyLoss(axis=1)
    loss.hybridize()
    options = {"learning_rate": 0.01, "momentum": 0.9, "wd": 1e-4}
    trainer = gluon.Trainer(net.collect_params(), "sgd", options)

    def step(number):
        x, y = mx.nd.array(images, dtype="uint8"), mx.nd.array(masks)
        with autograd.record():
            value = loss(net.heads(x)[0], y)
        value.backward()
        trainer.step(len(images))
        mx.nd.waitall()

    return step


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 3, 256, 256), np.uint8)
    masks = rng.integers(0, CLASSES, (4, 256, 256)).astype(np.uint8)
    steps = {"segtrain": ours(images, masks), "gluon": plain(images, masks)}
    seconds = {name: [] for name in steps}
    for number in range(options.rounds + 1):
        for name, step in steps.items():
            begun = time.perf_counter()
            step(number)
            if number:  # the first round plans the memory
                seconds[name].append(time.perf_counter() - begun)
    ratios = [b / a for a, b in zip(seconds["segtrain"], seconds["gluon"])]
    result = {
        "segtrain": segtrain.__version__,
        "mxnet": mx.__version__,
        "seconds_per_step": {name: statistics.median(times) for name, times in seconds.items()},
        "speedup_over_gluon": statistics.median(ratios),
        "rounds": options.rounds,
    }
    print(json.dumps(result, indent=1))
    if options.json:
        with open(options.json, "w") as file:
            json.dump(result, file, indent=1)


if __name__ == "__main__":
    main()
