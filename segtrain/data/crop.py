"""A crop of a sample at a random place, image and mask warped once."""

from __future__ import annotations

from typing import NamedTuple, Sequence

import cv2
import numpy as np

from segtrain.data.dataset import Sample

Rng = np.random.Generator
TRIES = 10  # at a crop in which no class fills more than its share
LONGEST = 2**15 - 2  # pixels of a side that OpenCV warps


class Window(NamedTuple):
    """The crop that is to be made of a sample.

    foreground: the chance that it is placed so that it holds a pixel of a class drawn from those
    present but the first; cat_max_ratio: the share of it that no class may fill, if a place for
    that is found in `TRIES` tries (as in mmsegmentation's RandomCrop).
    """

    size: Sequence[int]  # height, width
    ignore: int
    foreground: float = 0
    cat_max_ratio: float = 1


def placed(linear: np.ndarray, mask: np.ndarray, window: Window, rng: Rng) -> np.ndarray:
    """The map (3, 3) from pixels (x, y, 1) of the source to the crop's.

    linear: the map (3, 3) of pixels about the source's centre; mask: the source's, (H, W) uint8. The
    crop's place is random, as `window` wants it.
    """
    ignore, pixel = window.ignore, None
    if window.foreground and rng.random() < window.foreground:
        pixel = _foreground(mask, rng, ignore)
    matrix = _place(linear, mask.shape, window.size, rng, pixel)
    for _ in range(TRIES if window.cat_max_ratio < 1 else 0):
        counts = np.bincount(_warp_mask(mask, matrix, window.size, ignore).ravel(), minlength=256)
        counts[ignore] = 0
        if np.count_nonzero(counts) > 1 and counts.max() < window.cat_max_ratio * counts.sum():
            break
        matrix = _place(linear, mask.shape, window.size, rng, pixel)
    return matrix


def foreground_classes(mask: np.ndarray, ignore: int) -> list[int]:
    """The classes in a mask (H, W) uint8 but the first, 0."""
    return [c for c in np.flatnonzero(np.bincount(mask.ravel())) if c not in (0, ignore)]


def _foreground(mask: np.ndarray, rng: Rng, ignore: int) -> np.ndarray | None:
    """The place (x, y) of a pixel of one of the classes present, but 0; None where there is none."""
    classes = foreground_classes(mask, ignore)
    if not classes:
        return None
    places = np.flatnonzero(mask.ravel() == rng.choice(classes))
    return np.array(np.unravel_index(rng.choice(places), mask.shape)[::-1], float)


def _place(
    linear: np.ndarray,
    size: Sequence[int],
    crop: Sequence[int],
    rng: Rng,
    pixel: np.ndarray | None = None,
) -> np.ndarray:
    """The map from source to crop: the linear part about the centre, then a random shift.

    pixel: (x, y) in the source that is to lie in the crop.
    """
    source = np.array([size[1], size[0]], float)
    target = np.array([crop[1], crop[0]], float)
    extent = np.abs(linear[:2, :2]) @ source
    slack = np.abs(extent - target) / 2
    if pixel is None:
        shift = rng.uniform(-slack, slack)
    else:
        wanted = rng.uniform(0, target - 1) - linear[:2, :2] @ (pixel - (source - 1) / 2)
        shift = np.clip(wanted - (target - 1) / 2, -slack, slack)
    centre = (target - 1) / 2 + shift
    matrix = linear.copy()
    matrix[:2, 2] = centre - linear[:2, :2] @ ((source - 1) / 2)
    if np.isin(np.abs(linear[:2, :2]), (0.0, 1.0)).all():
        matrix[:2, 2] = np.rint(matrix[:2, 2])
    return matrix


def warp(sample: Sample, matrix: np.ndarray, crop: Sequence[int], ignore: int) -> Sample:
    """The crop (height, width) to which `matrix` (3, 3) maps the sample.

    The image linear, mirrored beyond its border; the mask the nearest pixel, `ignore` beyond.
    """
    size, (part, local) = (crop[1], crop[0]), _within_reach(matrix, sample.mask.shape, crop)
    image = cv2.warpAffine(
        sample.image[part], local[:2], size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
    )
    return Sample(image.reshape(*crop, -1), _warp_mask(sample.mask, matrix, crop, ignore))


def _warp_mask(mask: np.ndarray, matrix: np.ndarray, crop: Sequence[int], ignore: int) -> np.ndarray:
    part, local = _within_reach(matrix, mask.shape, crop)
    return cv2.warpAffine(
        mask[part],
        local[:2],
        (crop[1], crop[0]),
        flags=cv2.INTER_NEAREST,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=ignore,
    )


def bent(sample: Sample, matrix: np.ndarray, bend: np.ndarray, ignore: int) -> Sample:
    """As `warp`, each pixel of the crop looking `bend` away from where it would.

    bend: (height, width, 2), x and y in pixels of the crop.
    """
    height, width = bend.shape[:2]
    places = np.dstack(np.meshgrid(np.arange(width), np.arange(height))) + bend
    back = np.linalg.inv(matrix)
    x, y = np.moveaxis(places @ back[:2, :2].T + back[:2, 2], -1, 0)
    part = tuple(_reach(axis, side) for axis, side in zip((y, x), sample.mask.shape))
    x, y = (x - part[1].start).astype(np.float32), (y - part[0].start).astype(np.float32)
    image = cv2.remap(sample.image[part], x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    mask = cv2.remap(
        sample.mask[part], x, y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=ignore
    )
    return Sample(image.reshape(height, width, -1), mask)


def _within_reach(
    matrix: np.ndarray, size: Sequence[int], crop: Sequence[int]
) -> tuple[tuple[slice, slice], np.ndarray]:
    """The part of the source that a crop is made of, and the map from there to the crop.

    It is all, but for sides too long for OpenCV.
    """
    if max(size) <= LONGEST:
        return (slice(None), slice(None)), matrix
    corners = [(x, y, 1) for x in (0, crop[1] - 1) for y in (0, crop[0] - 1)]
    x, y, _ = np.linalg.inv(matrix) @ np.transpose(corners)
    rows, columns = _reach(y, size[0]), _reach(x, size[1])
    local = matrix.copy()
    local[:2, 2] += matrix[:2, :2] @ (columns.start, rows.start)
    return (rows, columns), local


def _reach(places: np.ndarray, length: int) -> slice:
    """All of an axis, or of one too long for OpenCV what is looked at, mirrored beyond its ends."""
    if length <= LONGEST:
        return slice(0, length)
    low, high, last = int(places.min()) - 2, int(places.max()) + 2, length - 1
    start = 0 if low < 0 else max(0, min(low, 2 * last - high))
    return slice(start, length if high > last else max(high, -low) + 1)
