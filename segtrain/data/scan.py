"""One look at a whole split before training: every file decodes, every mask holds known ids."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from segtrain.data.dataset import Dataset
from segtrain.errors import UserError


class Census(NamedTuple):
    """What a split's masks hold, image by image."""

    pixels: np.ndarray  # (images, classes) int64: pixels of each class
    sizes: list[tuple[int, ...]]  # height, width

    @property
    def frequencies(self) -> np.ndarray:
        """Share of each class in all pixels that are not ignored, (classes,)."""
        totals = self.pixels.sum(axis=0)
        return totals / max(1, totals.sum())


def scan(dataset: Dataset, title: str) -> Census:
    """Read every sample of the split in threads (OpenCV lets go of the interpreter's lock).

    UserError names the first file that can't be read or holds an id outside the classes, or
    tells that the split's masks hold less than two classes.
    """

    def look(index: int) -> tuple[np.ndarray, tuple[int, ...]]:
        mask = dataset.read(index).mask
        counts = np.bincount(mask.ravel(), minlength=256)
        counts[dataset.ignore] = 0
        return counts[: len(dataset.classes)], mask.shape

    pool = ThreadPoolExecutor(os.cpu_count() or 1)
    try:
        found = pool.map(look, range(len(dataset.ids)))
        bar = tqdm(found, total=len(dataset.ids), desc=title, disable=None, leave=False)
        rows, sizes = zip(*bar)
    finally:
        pool.shutdown(wait=False)
    census = Census(np.array(rows, np.int64), list(sizes))
    if (census.pixels.sum(axis=0) > 0).sum() < 2:
        held = [n for n, c in zip(dataset.classes, census.pixels.sum(axis=0)) if c] or ["no class"]
        raise UserError(
            f"{title}: the masks hold {held[0]} and nothing else but ignored pixels; if "
            f"{dataset.ignore} is a class in them, set data.label_map={{{dataset.ignore}: 1}}"
        )
    return census
