"""ADE20K, the scene parsing benchmark: images and annotations of 150 classes, 0 where there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Dict, List

from segtrain.data.files import IMAGES
from segtrain.data.labels import RawIds
from segtrain.data.pairs import Pairs, files, names, open_root, pair
from segtrain.errors import UserError

COUNT, IGNORE = 150, 255
FOLDERS = {"train": "training", "val": "validation"}


def build(split: str, *, root: Path, splits: Dict[str, str] = FOLDERS) -> Pairs:
    """The named split: mask values 1 to 150 are the classes, 0 is ignored.

    root: the folder of images and annotations (ADEChallengeData2016); splits: the folder of a
    split in both. The classes' names come from its objectInfo150.txt, or else from GluonCV.
    """
    root, home = open_root(root), splits.get(split, split)
    see = "data.root, which has images/training and annotations/training, and data.splits"
    images = files(root / "images" / home, IMAGES, see=see)
    masks = files(root / "annotations" / home, {".png"}, see=see)
    table = {0: IGNORE, **{value: value - 1 for value in range(1, COUNT + 1)}}
    return Pairs(
        pair(images, masks), RawIds(_classes(root / "objectInfo150.txt"), IGNORE, table, fixed=True)
    )


def _classes(table: Path) -> List[str]:
    if not table.is_file():
        from gluoncv.data import ADE20KSegmentation  # brings MXNet with it

        return list(ADE20KSegmentation.CLASSES)
    classes = [line.split("\t")[-1].strip() for line in names(table)[1:]]
    if len(classes) != COUNT:
        raise UserError(f"{table} names {len(classes)} classes under its header; there must be {COUNT}")
    return classes
