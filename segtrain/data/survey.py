"""Every sample of a split looked at once: what it holds, and what keeps it from being read."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import List, NamedTuple, Tuple, Union

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from segtrain.data.dataset import Dataset
from segtrain.errors import UserError

THUMBNAIL = 32


class Print(NamedTuple):
    """What tells copies of an image."""

    digest: str  # of the decoded pixels
    thumbnail: np.ndarray  # (1024,) float32, of mean 0 and length 1; zeros where it is flat


class Look(NamedTuple):
    """One sample, in numbers."""

    name: str
    size: Tuple[int, ...]  # height, width
    counts: np.ndarray  # (256,) int64: pixels of each id
    print: Print
    mask_mode: str  # of the mask's file, as Pillow names it: L, P, 1, I;16, ...; or empty
    mean: np.ndarray  # (C,) of the image's values
    square: np.ndarray  # (C,) mean of their squares


class Problem(NamedTuple):
    """A sample that can't be read."""

    name: str
    text: str


class Survey(NamedTuple):
    """A split: the samples that could be read, and the problems."""

    split: str
    dataset: Dataset
    looks: List[Look]
    problems: List[Problem]

    @property
    def pixels(self) -> np.ndarray:
        """Pixels of each class, (classes,) int64."""
        classes = len(self.dataset.classes)
        return np.sum([look.counts[:classes] for look in self.looks] or [np.zeros(classes)], axis=0)


def survey(dataset: Dataset, split: str) -> Survey:
    """Read every sample in threads; nothing is raised for one that can't be."""

    def look(index: int) -> Union[Look, Problem]:
        try:
            return _look(dataset, index)
        except UserError as error:
            return Problem(dataset.name(index), str(error))

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        found = pool.map(look, range(len(dataset.ids)))
        results = list(tqdm(found, total=len(dataset.ids), desc=split, disable=None, leave=False))
    return Survey(
        split,
        dataset,
        [result for result in results if isinstance(result, Look)],
        [result for result in results if isinstance(result, Problem)],
    )


def _look(dataset: Dataset, index: int) -> Look:
    image, mask = dataset.read(index)
    counts = np.bincount(mask.ravel(), minlength=256)
    counts[dataset.ignore] = 0
    flat = image.reshape(-1, image.shape[-1])
    return Look(
        dataset.name(index),
        mask.shape,
        counts,
        fingerprint(image),
        _mode(dataset, index),
        flat.mean(axis=0, dtype=float),
        np.square(flat, dtype=np.float32).mean(axis=0, dtype=float),
    )


def fingerprint(image: np.ndarray) -> Print:
    """Of an image (H, W, C): equal for equal pixels, and alike for copies saved anew."""
    return Print(hashlib.sha256(image.tobytes()).hexdigest(), _thumbnail(image))


def _thumbnail(image: np.ndarray) -> np.ndarray:
    """The image's lightness at 32x32, made independent of brightness and contrast.

    Of a signal 1,024 values along it.
    """
    grey = image.mean(axis=-1, dtype=np.float32)
    size = (THUMBNAIL, THUMBNAIL) if grey.ndim == 2 else (THUMBNAIL**2, 1)
    small = cv2.resize(np.atleast_2d(grey), size, interpolation=cv2.INTER_AREA).ravel()
    small = small - small.mean()
    length = float(np.linalg.norm(small))
    return small / length if length > 1 else np.zeros_like(small)


def _mode(dataset: Dataset, index: int) -> str:
    files: Tuple[Path, ...] = getattr(dataset, "files", lambda index: ())(index)
    if len(files) < 2:
        return ""
    try:
        with Image.open(files[1]) as file:
            return str(file.mode)
    except (OSError, UnidentifiedImageError):
        return ""
