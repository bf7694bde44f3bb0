"""One sample in numbers: what its mask holds, what its image is like, what tells copies of it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Tuple

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from segtrain.data.dataset import Dataset

THUMBNAIL = 32
NEAR = 0.999
"""Correlation of two thumbnails from which on images count as copies of one another.

Images saved anew as JPEG, at quality 10 too, or at half the size correlate by more than 0.9995;
CamVid's most alike frames, which follow one another, by 0.998.
"""
_AT_ONCE = 256  # images that are compared with all before them


class Print(NamedTuple):
    """What tells copies of an image."""

    digest: bytes  # of the decoded pixels
    thumbnail: np.ndarray  # (1024,) float16, of mean 0 and length 1; zeros where it is flat


class Look(NamedTuple):
    """One sample, in numbers."""

    name: str
    size: Tuple[int, ...]  # height, width
    counts: np.ndarray  # (classes,) int64: pixels of each class
    print: Print
    mask_mode: str  # of the mask's file, as Pillow names it: L, P, 1, I;16, ...; or empty
    mean: np.ndarray  # (C,) of the image's values
    square: np.ndarray  # (C,) mean of their squares


def look(dataset: Dataset, index: int) -> Look:
    """Read the sample; UserError where it can't be."""
    image, mask = dataset.read(index)
    counts = np.bincount(mask.ravel(), minlength=256)
    counts[dataset.ignore] = 0
    mean, square = _moments(image)
    return Look(
        dataset.name(index),
        mask.shape,
        counts[: len(dataset.classes)],
        fingerprint(image),
        _mode(dataset, index),
        mean,
        square,
    )


def fingerprint(image: np.ndarray) -> Print:
    """Of an image (H, W, C): equal for equal pixels, and alike for copies saved anew."""
    digest = hashlib.sha256(image.tobytes()).digest()
    return Print(digest, _thumbnail(image).astype(np.float16))


def copies_of(prints: List[Print]) -> Iterator[Tuple[int, int, bool]]:
    """Each image with the first one before it that it is a copy of; whether to the last bit."""
    first: Dict[bytes, int] = {}
    thumbnails = np.array([each.thumbnail for each in prints], np.float32)
    for i, each in enumerate(prints):
        if i % _AT_ONCE == 0:  # else each image's turn would read all thumbnails from memory
            near = thumbnails[i : i + _AT_ONCE] @ thumbnails[: i + _AT_ONCE].T > NEAR
        if each.digest in first:
            yield first[each.digest], i, True
            continue
        first[each.digest] = i
        alike = np.flatnonzero(near[i % _AT_ONCE, :i])
        if len(alike):
            yield int(alike[0]), i, False


def _thumbnail(image: np.ndarray) -> np.ndarray:
    """The image's lightness at 32x32, made independent of brightness and contrast.

    Of a signal 1,024 values along it.
    """
    is_picture = image.ndim == 3
    plain = is_picture and image.shape[2] <= 4  # OpenCV is quicker than numpy at these
    plane = image if plain else np.atleast_2d(image.mean(axis=-1, dtype=np.float32))
    size = (THUMBNAIL, THUMBNAIL) if is_picture else (THUMBNAIL**2, 1)
    small = cv2.resize(plane.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    small = small.reshape(THUMBNAIL**2, -1).mean(axis=1)
    small -= small.mean()
    length = float(np.linalg.norm(small))
    return small / length if length > 1 else np.zeros_like(small)


def _moments(image: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Of an image (H, W, C), or a signal (L, C): mean and mean square of each channel."""
    if image.ndim == 3 and image.shape[2] <= 4:
        mean, deviation = (value.ravel() for value in cv2.meanStdDev(image))
        return mean, mean**2 + deviation**2
    flat = image.reshape(-1, image.shape[-1])
    return flat.mean(axis=0, dtype=float), np.square(flat, dtype=np.float32).mean(axis=0, dtype=float)


def _mode(dataset: Dataset, index: int) -> str:
    files: Tuple[Path, ...] = getattr(dataset, "files", lambda index: ())(index)
    if len(files) < 2:
        return ""
    try:
        with Image.open(files[1]) as file:
            return str(file.mode)
    except (OSError, UnidentifiedImageError):
        return ""
