"""One look at a whole split before training: every file decodes, every mask holds known ids."""

from __future__ import annotations

from typing import NamedTuple, Optional

import numpy as np

from segtrain.config import Data
from segtrain.data.dataset import Dataset
from segtrain.data.ledger import open_ledger
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


def scan(dataset: Dataset, split: str, data: Optional[Data] = None) -> Census:
    """Read every sample of the split, but those that are known from before and didn't change.

    data: the section of the config that describes them, without which nothing is kept. UserError
    names the first file that can't be read or holds an id outside the classes, or tells that the
    split's masks hold less than two classes.
    """
    rows = open_ledger(dataset, split, data, strict=True).rows
    census = Census(rows["counts"].astype(np.int64), list(map(tuple, rows["size"].tolist())))
    if (census.pixels.sum(axis=0) > 0).sum() < 2:
        held = [n for n, c in zip(dataset.classes, census.pixels.sum(axis=0)) if c]
        raise UserError(
            f"{split}: the masks hold nothing but {' and '.join([*held, 'ignored pixels'])}; if "
            f"{dataset.ignore} is a class in them, set data.label_map={{{dataset.ignore}: 1}}"
        )
    return census
