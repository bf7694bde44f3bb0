"""Batches of augmented crops from worker processes, the same whatever the number of workers.

Each sample is a function of (seed, epoch, index), and an epoch's order of (seed, epoch). Workers
write into slots of an anonymous shared file, so that nothing is copied through a pipe and the
size of /dev/shm is no limit.
"""

from __future__ import annotations

import ctypes
import mmap
import multiprocessing
import os
import signal
import threading
from collections import deque
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection, reduction
from typing import Any, Callable, Iterator, NamedTuple, Sequence

import cv2
import numpy as np

from segtrain.config import Data
from segtrain.data import ahead, augment, augment1d
from segtrain.data.albumentations_pipeline import Pipeline
from segtrain.data.augment import Step
from segtrain.data.crop import Window
from segtrain.data.dataset import Dataset, Sample
from segtrain.errors import SegtrainError, UserError


class Batch(NamedTuple):
    """One batch; the arrays are valid until the next batch is asked for."""

    images: np.ndarray  # (N, C, H, W) or (N, C, L), uint8 or float32
    masks: np.ndarray  # (N, H, W) or (N, L), uint8: class ids or ignore
    indices: list[int]


class Recipe(NamedTuple):
    """How a sample becomes a crop: all that a worker needs to know."""

    dataset: Dataset
    crop: tuple[int, ...]
    channels: int
    steps: Sequence[Step]
    seed: int
    foreground: float = 0
    cat_max_ratio: float = 1

    def make(self, epoch: int, index: int) -> tuple[np.ndarray, np.ndarray]:
        """The crop of the sample in that epoch: (C, H, W) and (H, W), or (C, L) and (L,)."""
        rng = np.random.default_rng([self.seed, epoch, index])
        sample, ignore = self._read(index), self.dataset.ignore
        if len(self.crop) == 1:
            image, mask = augment1d.augment(sample, self.crop, self.steps, rng, ignore)
        else:
            window = Window(self.crop, ignore, self.foreground, self.cat_max_ratio)
            image, mask = augment.augment(
                sample, window, self.steps, rng, lambda: self._read(self._another(index, rng))
            )
        return np.moveaxis(image, -1, 0), mask

    def _another(self, index: int, rng: np.random.Generator) -> int:
        """A sample other than that one, where there is another."""
        count = len(self.dataset.ids)
        return int(index + rng.integers(1, max(2, count))) % count

    def _read(self, index: int) -> Sample:
        sample = self.dataset.read(index)
        if sample.image.shape[-1] != self.channels:
            raise UserError(
                f"{self.dataset.name(index)} has {sample.image.shape[-1]} channels, and the "
                f"network takes {self.channels}: set model.in_channels"
            )
        return sample


class Slots:
    """`count` batches of memory that worker processes share through an anonymous file."""

    def __init__(
        self,
        count: int,
        batch: int,
        image: tuple[int, ...],
        mask: tuple[int, ...],
        dtype: str = "uint8",
        fd: int = -1,
    ):
        self._layout = (count, batch, image, mask, dtype)
        sizes = int(np.prod(image)) * np.dtype(dtype).itemsize, int(np.prod(mask))
        total = count * batch * sum(sizes)
        self._fd = fd
        if fd < 0:
            self._fd = os.memfd_create("segtrain-batches")
            os.ftruncate(self._fd, total)
        memory = np.frombuffer(mmap.mmap(self._fd, total), np.uint8)
        split = count * batch * sizes[0]
        self.images = memory[:split].view(dtype).reshape(count, batch, *image)
        self.masks = memory[split:].reshape(count, batch, *mask)

    def __reduce__(self) -> tuple:
        return _attach, (*self._layout, reduction.DupFd(self._fd))

    def close(self) -> None:
        """Give the file's descriptor back; the memory goes when the arrays do."""
        os.close(self._fd)


def _attach(count: int, batch: int, image: tuple, mask: tuple, dtype: str, fd: Any) -> Slots:
    return Slots(count, batch, image, mask, dtype, fd.detach())


class Loader:
    """The training batches of a dataset, epoch by epoch; the last one may be short.

    workers: processes that prepare samples; 0 prepares them in this one. Use it as a context
    manager: leaving it ends the workers.
    """

    def __init__(self, recipe: Recipe, batch: int, workers: int):
        self._recipe, self._batch = recipe, batch
        self._count = len(recipe.dataset.ids)
        ahead = 3 if workers else 1
        image = (recipe.channels, *recipe.crop)
        self._slots = Slots(ahead, batch, image, recipe.crop, recipe.dataset.dtype)
        self._pool: ProcessPoolExecutor | None = None
        self.share: Callable[[np.ndarray], np.ndarray] = lambda part: part
        """The samples of a batch that are this process's, among several ranks."""
        self._ahead, self._workers = ahead, workers
        if workers:
            self._pool = _start(workers, recipe, self._slots)

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool:
            self._pool.shutdown()  # waits: else Python, when it ends, may write to a pipe that closes
        self._slots.close()

    @property
    def dataset(self) -> Dataset:
        """What the batches are of."""
        return self._recipe.dataset

    def __len__(self) -> int:
        """Batches in an epoch."""
        return -(-self._count // self._batch)

    def order(self, epoch: int) -> np.ndarray:
        """The order of the samples in an epoch: each index once."""
        return np.random.default_rng([self._recipe.seed, epoch]).permutation(self._count)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from the `start`-th on.

        UserError names the file that can't be read; SegtrainError tells of a dead worker.
        """
        order = self.order(epoch)
        parts = [order[i : i + self._batch] for i in range(0, len(order), self._batch)][start:]
        parts = [self.share(part) for part in parts]
        waiting: deque[tuple[int, list[int], list[Future]]] = deque()
        try:
            for number, part in enumerate(parts):
                slot, indices = number % self._ahead, part.tolist()
                if len(waiting) == self._ahead:
                    yield self._finish(*waiting.popleft())
                waiting.append((slot, indices, self._submit(slot, epoch, indices)))
            while waiting:
                yield self._finish(*waiting.popleft())
        finally:  # an epoch that is left early must not write into the next one's slots
            wait([future for _, _, futures in waiting for future in futures])

    def _submit(self, slot: int, epoch: int, indices: list[int]) -> list[Future]:
        if self._pool is None:
            for row, index in enumerate(indices):
                _fill(self._recipe, self._slots, slot, row, epoch, index)
            return []
        try:
            # a share of the batch at a time: a message per sample takes as long as a crop
            size = -(-len(indices) // self._workers) or 1
            shares = [(first, indices[first : first + size]) for first in range(0, len(indices), size)]
            return [self._pool.submit(_work, slot, first, epoch, share) for first, share in shares]
        except (BrokenProcessPool, ConnectionError):
            raise _dead() from None

    def _finish(self, slot: int, indices: list[int], futures: list[Future]) -> Batch:
        try:
            for future in futures:
                future.result()
        except BrokenProcessPool:
            raise _dead() from None
        count = len(indices)
        return Batch(self._slots.images[slot, :count], self._slots.masks[slot, :count], indices)


def pipelines(data: Data) -> dict[str, str]:
    """The files that the augmentation is read from, each with its SHA-256."""
    given = [value for step in _steps(data) for value in step.arguments]
    return {value.file: value.sha256 for value in given if isinstance(value, Pipeline)}


def _steps(data: Data) -> list[Step]:
    return (augment1d.parse if len(data.crop) == 1 else augment.parse)(data.augment)


def recipe(dataset: Dataset, data: Data, channels: int, seed: int) -> Recipe:
    """How a config makes training crops of a dataset's samples."""
    steps = _steps(data)
    return Recipe(dataset, data.crop, channels, steps, seed, data.foreground, data.cat_max_ratio)


def open_loader(
    dataset: Dataset, data: Data, channels: int, batch: int, seed: int, workers: int
) -> Loader:
    """The loader of a config's training split."""
    return Loader(recipe(dataset, data, channels, seed), batch, workers)


# ---- in the worker processes

_shared: tuple[Recipe, Slots]


def _start(workers: int, recipe: Recipe, slots: Slots) -> ProcessPoolExecutor:
    """A pool whose processes come from a clean server process, not from a fork of this one."""
    pool = ProcessPoolExecutor(workers, ahead.serve(), initializer=_begin, initargs=(recipe, slots))
    try:
        for _ in range(workers):
            pool.submit(os.getpid)  # else the processes would start with the first batch
    except (BrokenProcessPool, ConnectionError):  # their server couldn't import the script that is run
        raise _dead() from None
    return pool


def _begin(recipe: Recipe, slots: Slots) -> None:
    global _shared
    _shared = recipe, slots
    cv2.setNumThreads(0)
    _keep_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's affair
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _keep_memory() -> None:
    """Let the C library keep 64 MB that were freed: getting them anew takes an eighth of a sample."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc's
    if mallopt:
        mallopt(-1, 2**26)  # M_TRIM_THRESHOLD
        mallopt(-3, 2**25)  # M_MMAP_THRESHOLD, at its most


def _end_with_parent() -> None:
    """End this process when the main one ends, even if that was killed."""
    parent = multiprocessing.parent_process()
    if parent:
        connection.wait([parent.sentinel])
        os._exit(1)


def _work(slot: int, first: int, epoch: int, indices: list[int]) -> None:
    for row, index in enumerate(indices, first):
        _fill(*_shared, slot, row, epoch, index)


def _fill(recipe: Recipe, slots: Slots, slot: int, row: int, epoch: int, index: int) -> None:
    slots.images[slot, row], slots.masks[slot, row] = recipe.make(epoch, index)


def _dead() -> SegtrainError:
    return SegtrainError(
        "a loader process was killed, most often for want of memory: set data.workers lower "
        "(0 for none), and go on with --resume; a script that calls train() must be a file and do so "
        "under if __name__ == '__main__':"
    )
