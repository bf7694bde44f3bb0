"""What the host works out from masks: weights of classes and of borders, and who is there."""

from __future__ import annotations

from typing import List, Optional, Sequence, Union

import cv2
import numpy as np

from segtrain.errors import UserError


def pixel_weights(class_weights: np.ndarray, ignore: int) -> np.ndarray:
    """The weight of each possible id of a mask, (256,) float32; 0 for `ignore`."""
    table = np.zeros(256, np.float32)
    table[: len(class_weights)] = class_weights
    table[ignore] = 0
    return table


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


def present_classes(masks: np.ndarray, ignore: int) -> np.ndarray:
    """The ids in each mask of (N, H, W) or (N, L), ascending, (N, K) of float32; -1 fills up.

    K is rounded up to 1, 2, 3, 4, 6, 8, 12, 16, 24 and so on, so that a graph meets few shapes.
    """
    of_each = [np.flatnonzero(np.bincount(mask.ravel(), minlength=256)) for mask in masks]
    of_each = [ids[ids != ignore] for ids in of_each]
    most = max(1, *map(len, of_each))
    step = 1 << max(0, most.bit_length() - 2)
    present = np.full((len(masks), -(-most // step) * step), -1, np.float32)
    for row, ids in zip(present, of_each):
        row[: len(ids)] = ids
    return present


def border_weights(
    masks: np.ndarray, ignore: int, w0: float = 10, sigma: float = 5, background: Optional[int] = 0
) -> np.ndarray:
    """w0 exp(-(d1 + d2)^2 / (2 sigma^2)) of each pixel (Ronneberger et al. 2015, equation 2).

    Takes masks (N, H, W) or (N, L); gives float32 of that shape, 0 where ignored. An object is a
    component, connected by sides, of one class other than `background`; None: no class is the
    background. d1 and d2 are the distances in pixels to the two nearest objects of the mask, 0
    inside of one; a mask of fewer than two has no weights.
    """
    distances = [_to_two_nearest(_objects(np.atleast_2d(m), {ignore, background})) for m in masks]
    weights = w0 * np.exp(-np.square(distances) / (2 * sigma**2), dtype=np.float32)
    return weights.reshape(masks.shape) * (masks != ignore)


def _objects(mask: np.ndarray, no_objects: set) -> np.ndarray:
    """The number of each pixel's object in a mask (H, W), from 1; 0 where there is none."""
    numbers, count = np.zeros(mask.shape, np.int32), 0
    for label in sorted({*np.unique(mask).tolist()} - no_objects):
        of_class = (mask == label).astype(np.uint8)
        found, parts = cv2.connectedComponents(of_class, connectivity=4)
        np.add(parts, count, out=numbers, where=of_class > 0)
        count += found - 1
    return numbers


def _to_two_nearest(numbers: np.ndarray) -> np.ndarray:
    """d1 + d2 of each pixel, inf where there aren't two objects.

    The numbers of two objects differ in some bit. So, of each bit, the nearer of its 0s and its 1s
    is the nearest object, and the least of the farther ones over all bits is the second nearest.
    """
    first = second = np.full(numbers.shape, np.inf, np.float32)
    for bit in range(int(numbers.max()).bit_length()):
        is_set = (numbers >> bit & 1) > 0
        ones, zeros = _distance(is_set), _distance(~is_set & (numbers > 0))
        first, second = np.minimum(ones, zeros), np.minimum(second, np.maximum(ones, zeros))
    return first + second


def _distance(there: np.ndarray) -> np.ndarray:
    """The distance to the nearest pixel that is there, inf where none is.

    OpenCV's last bits differ from call to call. The squares are whole numbers, so that rounding
    them gives the same bits each time.
    """
    if not there.any():
        return np.full(there.shape, np.inf, np.float32)
    near = cv2.distanceTransform((~there).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.sqrt(np.rint(np.square(near)))
