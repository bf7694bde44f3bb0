"""One look at a whole split before training: every file decodes, every mask holds known ids."""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import suppress
from typing import NamedTuple, Optional

import numpy as np

from segtrain.config import Data
from segtrain.data.cache import home
from segtrain.data.dataset import Dataset, open_split
from segtrain.data.ledger import open_ledger
from segtrain.errors import UserError


class Census(NamedTuple):
    """What a split's masks hold, image by image."""

    pixels: np.ndarray  # (images, classes) int64: pixels of each class
    sizes: list[tuple[int, ...]]  # height, width


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


def _look_ahead() -> None:
    """In a process of its own (see ahead.py): fill the ledgers; the data section comes on stdin."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the other process's affair
    data = Data.model_validate_json(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(Exception):  # the other process will come upon it too, and tell
        home().mkdir(parents=True, exist_ok=True)
        train = open_split(data, "train")
        splits = {"train": train, "val": open_split(data, "val", train.classes)}
        for split, dataset in splits.items():
            if dataset.files(0) and os.access(home(), os.W_OK):  # else nothing would be kept
                open_ledger(dataset, split, data, strict=True)


def _end_with_parent() -> None:
    os.read(sys.stdin.fileno(), 1)  # nothing more comes: it returns when the other process ends
    os._exit(1)


if __name__ == "__main__":
    _look_ahead()
