"""Looks at samples, kept on the disk by the stamps of their files: what didn't change isn't read again.

All commands share them. A ledger is a .npy file of a row per sample, memory-mapped.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Optional, Tuple, Union

import numpy as np
from numpy.lib.format import open_memmap

from segtrain.bar import Bar
from segtrain.config import Data
from segtrain.data.cache import home
from segtrain.data.dataset import Dataset, reading
from segtrain.data.look import THUMBNAIL, Look, Print, look
from segtrain.data.parallel import in_threads
from segtrain.errors import UserError
from segtrain.version import __version__

MOST = 2**30  # bytes of all ledgers but the newest; those that weren't used for longest go
FRESH = 2.0  # seconds in which a file may change once more and keep its time stamp
_ANEW = 0  # the stamp of a sample that is to be read anyway


class Ledger(NamedTuple):
    """What is known of a split: a row per sample, and what is wrong with those that can't be read.

    rows: with the fields of a Look; zeros where `problems` has the index.
    """

    rows: np.ndarray
    problems: Dict[int, str]

    def look(self, dataset: Dataset, index: int) -> Look:
        """The look at a sample that could be read."""
        row = self.rows[index]
        return Look(
            dataset.name(index),
            tuple(row["size"].tolist()),
            row["counts"].astype(np.int64),
            Print(row["digest"].tobytes(), row["thumbnail"]),
            row["mode"].decode(),
            row["mean"],
            row["square"],
        )


def open_ledger(
    dataset: Dataset, split: str, data: Optional[Data] = None, strict: bool = False
) -> Ledger:
    """All samples of the split; those that nothing is known of yet are read, in threads.

    data: the section of the config that describes them, without which nothing is kept; strict:
    UserError for the first that can't be read; what was read before it is kept.
    """
    stamps = np.array([_stamp(dataset, i) for i in range(len(dataset.ids))], np.uint64)
    path = home() / f"{_key(dataset, data, split)}.looks" if data else None
    kept = _load(path) if path else None
    places = _places(kept, stamps)
    if path and kept is not None and np.array_equal(places, np.arange(len(kept))):
        with suppress(OSError):
            os.utime(path)  # it was of use
        return Ledger(kept, {})
    draft = _Draft(path, len(stamps))
    try:
        known = np.flatnonzero(places >= 0)
        if kept is not None and len(known):
            draft.copy(known, kept, places[known])
        for index, found in _read(dataset, np.flatnonzero(places < 0).tolist(), split):
            draft.add(index, stamps[index], found)
            if strict and index in draft.problems:
                raise UserError(draft.problems[index])
    finally:
        draft.keep()
    return Ledger(draft.rows, draft.problems)


class _Draft:
    """A ledger in the making: in a file aside, or in memory where there is no place for one."""

    def __init__(self, path: Optional[Path], count: int):
        self._path, self._count = path, count
        self._aside: Optional[Path] = None
        self.rows = np.zeros(count, _layout(1, 1, 1))
        self.problems: Dict[int, str] = {}
        self._begun = False

    def copy(self, indices: np.ndarray, kept: np.ndarray, places: np.ndarray) -> None:
        """Take over rows that are still true: those at `places` of `kept`, for the samples `indices`."""
        self._begin(kept.dtype)
        for start in range(0, len(indices), 1000):
            part = slice(start, start + 1000)
            self.rows[indices[part]] = kept[places[part]]

    def add(self, index: int, stamp: int, found: Union[Look, str]) -> None:
        """A look at a sample, or what is wrong with it."""
        if isinstance(found, str):
            self.problems[index] = found
            return
        layout = _layout(len(found.size), len(found.counts), len(found.mean))
        if not self._begun:
            self._begin(layout)
        if self.rows.dtype != layout:
            channels = self.rows.dtype["mean"].shape[0]
            self.problems[index] = f"{found.name} has {len(found.mean)} channels, and others {channels}"
            return
        digest, thumbnail = (
            np.frombuffer(found.print.digest, np.uint8),
            found.print.thumbnail,
        )
        row = (stamp, found.size, found.counts, digest, thumbnail)
        self.rows[index] = (*row, found.mask_mode.encode(), found.mean, found.square)

    def _begin(self, layout: np.dtype) -> None:
        self._begun = True
        try:
            self.rows = self._in_a_file(self._path, layout) if self._path else self._in_memory(layout)
        except OSError:
            self._drop()
            self.rows = self._in_memory(layout)

    def _in_memory(self, layout: np.dtype) -> np.ndarray:
        return np.zeros(self._count, layout)

    def _in_a_file(self, path: Path, layout: np.dtype) -> np.ndarray:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._aside = path.with_name(f".{path.name}.{os.getpid()}")
        rows = open_memmap(self._aside, "w+", layout, (self._count,))
        with open(self._aside, "rb+") as file:  # else a full disk would kill this process later
            os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
        return rows

    def keep(self) -> None:
        """Put the file in its place, and make room for it."""
        if self._aside is None or self._path is None:
            return
        self.rows.flush()  # type: ignore[attr-defined]
        try:
            os.replace(self._aside, self._path)
            _bound(self._path)
        except OSError:
            self._drop()

    def _drop(self) -> None:
        if self._aside is not None:
            self._aside.unlink(missing_ok=True)
            self._aside = None


def _layout(dim: int, classes: int, channels: int) -> np.dtype:
    return np.dtype(
        [
            ("stamp", "<u8"),
            ("size", "<i4", (dim,)),
            ("counts", "<i4", (classes,)),
            ("digest", "u1", (32,)),
            ("thumbnail", "<f2", (THUMBNAIL**2,)),
            ("mode", "S8"),
            ("mean", "<f8", (channels,)),
            ("square", "<f8", (channels,)),
        ]
    )


def _read(dataset: Dataset, indices: List[int], title: str) -> Iterator[Tuple[int, Union[Look, str]]]:
    def read(index: int) -> Union[Look, str]:
        try:
            return look(dataset, index)
        except UserError as error:
            return str(error)

    found = in_threads(read, indices)
    yield from zip(indices, Bar(found, total=len(indices), desc=title, unit="sample", leave=False))


# ---- what tells whether a sample has changed


def _stamp(dataset: Dataset, index: int) -> int:
    """A number that changes with any file's place, size or time; 0 where the sample is to be read."""
    files = dataset.files(index)
    try:
        stats = [path.stat() for path in files]
    except OSError:
        return _ANEW  # as reading it will tell
    if not stats or max(about.st_mtime for about in stats) > time.time() - FRESH:
        return _ANEW
    lines = [f"{path}\0{about.st_size}\0{about.st_mtime_ns}" for path, about in zip(files, stats)]
    text = "\0".join([dataset.name(index), *lines])
    return int.from_bytes(blake2b(os.fsencode(text), digest_size=8).digest(), "little")


def _key(dataset: Dataset, data: Data, split: str) -> str:
    """A name that changes with all but the files that decides what is read of them."""
    options = {k: v for k, v in reading(data).items() if k not in ("files", "splits")}
    meaning = [options, dataset.classes, dataset.ignore, split, str(Path.cwd()), __version__]
    return sha256(json.dumps(meaning, default=str).encode()).hexdigest()[:32]


def _load(path: Path) -> Optional[np.ndarray]:
    """The rows of a ledger; None where there is none that can be used."""
    try:
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, SyntaxError, EOFError):
        return None
    names = rows.dtype.names
    return rows if names == _layout(1, 1, 1).names and rows.ndim == 1 else None


def _places(kept: Optional[np.ndarray], stamps: np.ndarray) -> np.ndarray:
    """The row of each stamp in the ledger; -1 where it has none."""
    if kept is None or not len(kept):
        return np.full(len(stamps), -1)
    known = np.array(kept["stamp"])
    order = np.argsort(known)
    place = order[np.searchsorted(known, stamps, sorter=order).clip(max=len(known) - 1)]
    return np.where((known[place] == stamps) & (stamps != _ANEW), place, -1)


def _bound(newest: Path) -> None:
    """Remove the ledgers that weren't used for longest, while all but the newest take too much."""
    home, yesterday = newest.parent, time.time() - 86400
    for path in home.glob(".*.looks.*"):  # of processes that were killed
        if path.stat().st_mtime < yesterday:
            path.unlink()
    others = sorted(home.glob("*.looks"), key=lambda path: path.stat().st_mtime)
    others.remove(newest)
    total = sum(path.stat().st_size for path in others)
    while total > MOST:
        total -= others[0].stat().st_size
        others.pop(0).unlink()
