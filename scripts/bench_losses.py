"""Each loss's time, forward and backward, over cross-entropy's, interleaved.

4x21x256x256 on the CPU, the host's part of the work included. A mask is a mosaic of blobs of as
many classes as `--classes` says: what lovasz costs depends on how many an image holds.

    python scripts/bench_losses.py [--classes 6] [--rounds 7] [--json FILE]
"""

import numpy as np

import segtrain  # noqa: F401  sets the threads before MXNet is loaded  # isort: skip
import mxnet as mx
import turns
from mxnet import autograd
from scipy import ndimage

from segtrain.losses import Loss

ALL = ["ce", "focal", "border", "ohem", "dice", "generalised_dice", "tversky", "lovasz"]
CASES = {**{name: {name: 1} for name in ALL}, "ce, smoothing": {"ce": {"smoothing": 0.1}}}


def blobs(random, classes, side=256):
    """A mask in which each pixel has the class whose smooth random field is the highest there."""
    fields = random.normal(size=(classes, side, side))
    smooth = [ndimage.gaussian_filter(field, 16, mode="wrap") for field in fields]
    return random.permutation(21)[np.argmax(smooth, axis=0)].astype(np.uint8)


def step_of(loss, scores, masks):
    block = Loss(loss, np.ones(21), 255)
    block.initialize()
    block.hybridize(static_alloc=True, static_shape=True)

    def step():
        inputs, factors = block.prepare(masks)
        with autograd.record():
            value = block(scores, *(mx.nd.array(i, dtype=i.dtype) for i in inputs)) * mx.nd.array(
                factors
            )
        value.backward()
        mx.nd.waitall()

    return step


def main():
    parser = turns.parser(__doc__, rounds=7)
    parser.add_argument("--classes", type=int, default=6, choices=range(1, 22), metavar="1..21")
    options = parser.parse_args()
    random = np.random.default_rng(0)
    masks = np.stack([blobs(random, options.classes) for _ in range(4)])
    scores = mx.nd.array(random.normal(0, 2, (4, 21, 256, 256)))
    scores.attach_grad()
    steps = {name: step_of(loss, scores, masks) for name, loss in CASES.items()}
    found = turns.take(steps, options.rounds)
    made = turns.result(
        __doc__,
        "losses",
        options.rounds,
        "s",
        found,
        {f"ce over {name}": turns.ratio(found["ce"], found[name]) for name in CASES if name != "ce"},
        settings={"classes_per_image": [len(np.unique(mask)) for mask in masks]},
    )
    turns.finish(made, options.json)


if __name__ == "__main__":
    main()
