"""Decoded samples in one memory-mapped file, in memory or on the disk, that all processes share.

Each sample has its place there, and a flag that is set when it is whole. Whoever reads a sample
first decodes it; two that do so at once write the same bytes, and one that is killed in between
leaves the flag unset.
"""

from __future__ import annotations

import json
import mmap
import os
import shutil
from hashlib import sha256
from multiprocessing import reduction
from pathlib import Path
from typing import Any, List, Sequence, Tuple

import numpy as np

from segtrain.config import Data
from segtrain.data.dataset import Dataset, Sample, reading
from segtrain.errors import UserError
from segtrain.machines import memory
from segtrain.version import __version__

SHARE = 0.8  # of what is free that a cache may take
Size = Tuple[int, ...]


class Cached:
    """A dataset whose samples are decoded once; else it is like the dataset itself.

    sizes: (H, W) or (L,) of each sample; channels: of each; fd: of the file, which is made larger.
    """

    def __init__(self, dataset: Dataset, sizes: Sequence[Size], channels: int, fd: int):
        self._dataset, self._sizes, self._channels, self._fd = dataset, list(sizes), channels, fd
        self._starts = np.cumsum([0, *(np.prod(size, dtype=int) for size in sizes)])
        pixels = int(self._starts[-1])
        images = pixels * channels * np.dtype(dataset.dtype).itemsize
        total = images + pixels + len(self._sizes)
        if os.fstat(fd).st_size < total:
            os.ftruncate(fd, total)
        memory = np.frombuffer(mmap.mmap(fd, total), np.uint8)
        self._images = memory[:images].view(dataset.dtype).reshape(pixels, channels)
        self._masks, self._whole = memory[images : images + pixels], memory[images + pixels :]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_dataset"], name)

    def __reduce__(self) -> tuple:
        return _attach, (self._dataset, self._sizes, self._channels, reduction.DupFd(self._fd))

    def read(self, index: int) -> Sample:
        """The sample; its arrays can't be written to."""
        size, part = self._sizes[index], slice(*self._starts[index : index + 2])
        image = self._images[part].reshape(*size, self._channels)
        mask = self._masks[part].reshape(size)
        if not self._whole[index]:
            sample = self._dataset.read(index)
            if sample.image.shape != image.shape:
                name, channels = self._dataset.name(index), sample.image.shape[-1]
                raise UserError(
                    f"{name} has {channels} channels, and the network takes {self._channels}: set "
                    "model.in_channels"
                    if sample.mask.shape == mask.shape
                    else f"{name} changed its size while it was in use: start again"
                )
            image[...], mask[...] = sample
            self._whole[index] = 1
        image.flags.writeable = mask.flags.writeable = False
        return Sample(image, mask)


def _attach(dataset: Dataset, sizes: List[Size], channels: int, fd: Any) -> Cached:
    return Cached(dataset, sizes, channels, fd.detach())


def cached(dataset: Dataset, data: Data, sizes: Sequence[Size], channels: int) -> Dataset:
    """The dataset, its samples kept as `data.cache` says: 'none', 'ram' or 'disk'.

    UserError where there isn't room for all of them.
    """
    if data.cache == "none":
        return dataset
    pixels = sum(int(np.prod(size)) for size in sizes)
    need = pixels * (channels * np.dtype(dataset.dtype).itemsize + 1) + len(sizes)
    if data.cache == "ram":
        _check_room(need, memory.available(), "memory", "disk")
        fd = os.memfd_create("segtrain-cache")
    else:
        path = home() / f"{_key(dataset, data, sizes, channels)}.cache"
        path.parent.mkdir(parents=True, exist_ok=True)
        missing = need - (path.stat().st_size if path.exists() else 0)
        _check_room(missing, shutil.disk_usage(path.parent).free, f"disk of {path.parent}", "none")
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    return Cached(dataset, sizes, channels, fd)  # type: ignore[return-value]


def home() -> Path:
    """The folder of the caches on the disk: SEGTRAIN_CACHE, or ~/.cache/segtrain."""
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "segtrain"
    return Path(os.environ.get("SEGTRAIN_CACHE", default))


def clear() -> int:
    """Remove the caches on the disk, and what is known of files; the bytes that this frees."""
    freed = 0
    for path in [*home().glob("*.cache"), *home().glob("*.looks"), *home().glob(".*.looks.*")]:
        freed += path.stat().st_blocks * 512
        path.unlink()
    return freed


def _check_room(need: int, free: int, where: str, instead: str) -> None:
    if need > SHARE * free:
        raise UserError(
            f"data.cache needs {need / 2**30:.2g} GiB and the {where} has {free / 2**30:.2g} GiB free: "
            f"write data.cache={instead}"
        )


def _key(dataset: Dataset, data: Data, sizes: Sequence[Size], channels: int) -> str:
    """A name that changes with any file's place, size or time, the data's options, and the version."""
    fixed = [__version__, list(dataset.ids), reading(data), list(map(list, sizes)), channels]
    text = json.dumps([stamps(dataset), *fixed], default=str)
    return sha256(text.encode()).hexdigest()[:32]


def stamps(dataset: Dataset) -> List[Tuple[str, int, int]]:
    """Each file's place, size and time in nanoseconds: they change when the dataset does."""
    paths = [path for index in range(len(dataset.ids)) for path in dataset.files(index)]
    stats = [(path, path.stat()) for path in paths]
    return [(str(path.absolute()), about.st_size, about.st_mtime_ns) for path, about in stats]
