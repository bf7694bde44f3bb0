"""What a dataset is: classes, ids, and a pair of image and mask for each id."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, Protocol, Sequence

import numpy as np

from segtrain import plugins
from segtrain.config import Data
from segtrain.errors import UserError

SPLITS = ("train", "val", "test")
_FEEDING = {"crop", "augment", "workers", "foreground", "cat_max_ratio", "cache", "mean", "std"}


class Sample(NamedTuple):
    """One image with its mask, or one signal with its labels."""

    image: np.ndarray  # (H, W, C) or (L, C), uint8 or float32; RGB where it is a picture
    mask: np.ndarray  # (H, W) or (L,), uint8: class ids, or `ignore`


class Dataset(Protocol):
    """One split of a dataset: as many samples as ids, each read when asked for.

    One of signals has beside these dim = 1, rate and background, as in signals.py.
    """

    classes: list[str]
    ignore: int
    dtype: str  # of the images: uint8, or float32 for all that has more than 8 bits
    problems: list[str]  # "FILE: what is wrong" of those that could not be paired

    @property
    def ids(self) -> Sequence[str]:
        """The samples' names."""
        ...

    def read(self, index: int) -> Sample:
        """The `index`-th sample; UserError names the file that can't be used."""
        ...

    def name(self, index: int) -> str:
        """The file of the `index`-th sample, as an error would name it."""
        ...

    def files(self, index: int) -> tuple[Path, ...]:
        """The files that the `index`-th sample is made of: its image's first, then its mask's."""
        ...


def open_split(data: Data, split: str, classes: list[str] | None = None, strict: bool = True) -> Dataset:
    """The named split of a config's dataset.

    classes: those that it must have, of the split that was trained on. UserError where it is
    missing or empty, and where files in it could not be paired, unless `strict` is False.
    """
    build = plugins.find("data", data.name).build
    options = plugins.options(build, data.options, "data", also=type(data).model_fields, name=data.name)
    dataset: Dataset = build(split, **options)
    if dataset.problems and strict:
        more = len(dataset.problems) - 1
        raise UserError(dataset.problems[0] + (f" (and {more} more like it)" if more else ""))
    if not dataset.ids and not dataset.problems:
        raise UserError(
            f"the split {split!r} is empty: there is nothing to read; put samples into it (of a "
            "dataset without splits `segtrain init` makes some)"
        )
    _check_statistics(data, dataset)
    if classes is not None and dataset.classes != classes:
        raise UserError(
            f"the split {split!r} has the classes {', '.join(dataset.classes)}, and the one that was "
            f"trained on {', '.join(classes)}: they must be the same ones, in one order"
        )
    return dataset


def reading(data: Data) -> dict[str, Any]:
    """The part of a config's data section that decides what the samples are, as JSON has it."""
    return {**data.model_dump(mode="json", exclude=_FEEDING), "plugins": plugins.sources("data")}


def _check_statistics(data: Data, dataset: Dataset) -> None:
    """UserError where more than 8 bits would be normalised by the mean and std of 8."""
    if data.options.get("depth", 8) == 8 or (data.mean and data.std):
        return
    image = dataset.read(0).image
    mean, std = (f(image, axis=(0, 1), dtype=float).round(3).tolist() for f in (np.mean, np.std))
    raise UserError(
        f"data.depth={data.options['depth']}: set data.mean and data.std, a value per channel, since "
        f"the usual ones are for 8 bits; in {dataset.name(0)} they are {mean} and {std}"
    )


def palette() -> np.ndarray:
    """The colour of each id, (256, 3) uint8 RGB: Pascal VOC's, from the bits of the id."""
    ids = np.arange(256)
    colours = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= (((ids >> (3 * bit + channel)) & 1) << (7 - bit)).astype(np.uint8)
    return colours


def describe(classes: list[str], found: Any) -> str:
    """The ids of an array as text, those with a class named: "0 (sky), 12"."""
    named = dict(enumerate(classes))
    return ", ".join(f"{i} ({named[i]})" if i in named else str(i) for i in found)
