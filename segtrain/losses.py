"""Losses over the valid pixels of a whole batch, whatever the number of devices it is split over.

A loss is one function here: it returns the *sum* over a device's share, and `normalisers` has
the count to divide by, which the host knows from the masks before the step. So gradients of
shares add up to the gradient of the batch, and no step waits for a number from a device.
"""

from __future__ import annotations

import inspect
from typing import Callable, List, Sequence, Union

import numpy as np
from mxnet.gluon import HybridBlock

from segtrain.errors import UserError, nearest


class Truth:
    """A device's share of the truth: ids (N, H, W), weights (N, H, W), 0 where ignored."""

    def __init__(self, F, ids, weights, ignore: int, classes: int):
        self.F, self.ids, self.weights, self.ignore, self.classes = F, ids, weights, ignore, classes


def ce(log_p, truth: Truth):
    """Cross-entropy: the mean over the valid pixels, each with the weight of its class."""
    picked = truth.F.pick(log_p, truth.ids, axis=-1)
    return -truth.F.sum(picked * truth.weights)


def focal(log_p, truth: Truth):
    """Focal loss, gamma 2 (Lin et al. 2017, section 3.2): (1 - p)^2 times the cross-entropy."""
    picked = truth.F.pick(log_p, truth.ids, axis=-1)
    return -truth.F.sum(picked * truth.weights * truth.F.square(1 - truth.F.exp(picked)))


def dice(log_p, truth: Truth):
    """1 - soft Dice, per image and class present in its truth (Milletari et al. 2016, section 3).

    Mean over the image's classes, then over the batch's images; class weights don't count.
    """
    F, classes = truth.F, truth.classes
    valid = F.reshape(truth.ids != truth.ignore, (0, 1, -1))
    picked = F.reshape(F.exp(F.pick(log_p, truth.ids, axis=-1)), (0, 1, -1)) * valid
    # Sums over pixels as matrix products: a third of the time of products and sums of maps.
    hot = F.BlockGrad(F.reshape(F.one_hot(truth.ids, classes), (0, -1, classes)))
    of_truth = F.batch_dot(F.concat(picked, valid, dim=1), hot)
    overlap = F.slice_axis(of_truth, axis=1, begin=0, end=1)
    true = F.BlockGrad(F.slice_axis(of_truth, axis=1, begin=1, end=2))
    predicted = F.batch_dot(valid, F.reshape(F.exp(log_p), (0, -1, classes)))
    present = true > 0
    losses = present * (1 - 2 * overlap / F.maximum(predicted + true, 1e-6))
    return F.sum(F.sum(losses, axis=2) / F.maximum(F.sum(present, axis=2), 1))


PER_IMAGE = (dice,)


def find(name: str) -> Callable:
    """The loss of that name; UserError with the nearest names if there is none."""
    known = {
        n: f
        for n, f in globals().items()
        if inspect.isfunction(f) and [*inspect.signature(f).parameters] == ["log_p", "truth"]
    }
    if name not in known:
        raise UserError(f"train.loss: no {name!r}; {nearest(name, known)}")
    return known[name]


class Loss(HybridBlock):
    """The sum of each of the named losses over a device's share of a batch, (len(names),).

    Takes scores (N, classes, H, W) and masks (N, H, W) of uint8 ids or `ignore`.
    """

    def __init__(self, names: Sequence[str], class_weights: np.ndarray, ignore: int, dim: int = 2):
        super().__init__()
        self._channel_last = (0, 2, 3, 1) if dim == 2 else (0, 2, 1)
        self._losses = [find(name) for name in names]
        self._classes, self._ignore = len(class_weights), ignore
        self.table = self.params.get_constant("table", pixel_weights(class_weights, ignore))

    def hybrid_forward(self, F, scores, masks, table):
        # Channel-last: MXNet's softmax over the last axis is five times as fast as over axis 1.
        log_p = F.log_softmax(F.transpose(scores, self._channel_last), axis=-1)
        ids = F.cast(masks, "float32")
        truth = Truth(F, ids, F.take(table, ids), self._ignore, self._classes)
        return F.concat(*[loss(log_p, truth) for loss in self._losses], dim=0)


def pixel_weights(class_weights: np.ndarray, ignore: int) -> np.ndarray:
    """The weight of each possible id of a mask, (256,) float32; 0 for `ignore`."""
    table = np.zeros(256, np.float32)
    table[: len(class_weights)] = class_weights
    table[ignore] = 0
    return table


def normalisers(names: Sequence[str], masks: np.ndarray, table: np.ndarray) -> List[float]:
    """What each loss's sum over the whole batch is divided by, from its masks (N, H, W)."""
    weight = float(table @ np.bincount(masks.ravel(), minlength=256))
    per_pixel = max(weight, 1e-12)
    return [float(len(masks)) if find(name) in PER_IMAGE else per_pixel for name in names]


def class_weights(
    choice: Union[str, List[float]], pixels: np.ndarray, classes: Sequence[str]
) -> np.ndarray:
    """The weight of each class, from the pixels per image and class (images, classes).

    'none': 1; 'median': median frequency over frequency, among the images that hold the class
    (Eigen & Fergus 2015, section 3.3.1); 'enet': 1 / ln(1.02 + p) (Paszke et al. 2016, section
    5.2). A class without a pixel gets 0. A list is taken as it is.
    """
    count = pixels.shape[1]
    if isinstance(choice, list):
        if len(choice) != count or min(choice) < 0 or max(choice) == 0:
            raise UserError(
                f"train.class_weights has {len(choice)} numbers for {count} classes "
                f"({', '.join(classes)}); they must be 0 or more, and not all 0"
            )
        return np.array(choice)
    if choice == "none":
        return np.ones(count)
    totals = pixels.sum(axis=0)
    seen = totals > 0
    if choice == "enet":
        return np.where(seen, 1 / np.log(1.02 + totals / totals.sum()), 0)
    of_images = (pixels.sum(axis=1)[:, None] * (pixels > 0)).sum(axis=0)
    frequency = totals / np.maximum(of_images, 1)
    return np.where(seen, np.median(frequency[seen]) / np.maximum(frequency, 1e-12), 0)
