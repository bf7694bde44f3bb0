"""Cityscapes: leftImg8bit and gtFine by split and city, its 34 label ids turned into 19 classes."""

from __future__ import annotations

from pathlib import Path
from typing import Dict, Literal

from segtrain.data.files import IMAGES
from segtrain.data.labels import RawIds
from segtrain.data.pairs import Pairs, files, open_root, pair

LABELS = {  # label id: class; the other ids are void
    7: "road",
    8: "sidewalk",
    11: "building",
    12: "wall",
    13: "fence",
    17: "pole",
    19: "traffic light",
    20: "traffic sign",
    21: "vegetation",
    22: "terrain",
    23: "sky",
    24: "person",
    25: "rider",
    26: "car",
    27: "truck",
    28: "bus",
    31: "train",
    32: "motorcycle",
    33: "bicycle",
}
VOID = 255


def build(
    split: str,
    *,
    root: Path,
    labels: Literal["gtFine", "gtCoarse"] = "gtFine",
    splits: Dict[str, str] = {},
) -> Pairs:
    """The named split; the ids that take no part in the benchmark are ignored.

    root: the folder of leftImg8bit and gtFine; labels: which annotations; splits: the folder of a
    split, as train_extra, where it is not called like the split.
    """
    home = splits.get(split, split)
    root = open_root(root)
    see = "data.root, which has leftImg8bit and gtFine, and data.splits"
    images = files(root / "leftImg8bit" / home, IMAGES, "_leftImg8bit", see)
    masks = files(root / labels / home, {".png"}, f"_{labels}_labelIds", see)
    train_ids = {label: i for i, label in enumerate(LABELS)}
    table = {label: train_ids.get(label, VOID) for label in range(34)}
    return Pairs(pair(images, masks), RawIds(list(LABELS.values()), VOID, table, fixed=True))
