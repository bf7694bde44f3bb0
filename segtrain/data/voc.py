"""Pascal VOC: JPEGImages, SegmentationClass and the lists in ImageSets/Segmentation."""

from __future__ import annotations

from pathlib import Path
from typing import Dict, List

from segtrain.data.files import IMAGES
from segtrain.data.labels import RawIds
from segtrain.data.pairs import Pairs, files, names, open_root, pair
from segtrain.errors import UserError

CLASSES = [
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair"),
    *("cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
]


def build(
    split: str,
    *,
    root: Path,
    classes: List[str] = CLASSES,
    masks: str = "SegmentationClass",
    splits: Dict[str, str] = {},
) -> Pairs:
    """The named split; 255 is ignored.

    root: the folder that holds JPEGImages, or one or two above it, as VOCdevkit is; classes: VOC's
    21 where nothing else is said; masks: the folder of masks, as SegmentationClassAug; splits: the
    list of a split without its ending, as trainval, where it is not called like the split.
    """
    labels = RawIds(classes, fixed=True)
    home = _home(open_root(root))
    lists = home / "ImageSets" / "Segmentation"
    source = lists / f"{splits.get(split, split)}.txt"
    if not source.is_file():
        known = ", ".join(sorted(f.stem for f in lists.glob("*.txt"))) or "no lists"
        raise UserError(f"no split {split!r}: {lists} has {known}; set data.splits={{{split}: LIST}}")
    pairs = pair(
        files(home / "JPEGImages", IMAGES), files(home / masks, {".png"}), names(source), source
    )
    return Pairs(pairs, labels)


def _home(root: Path) -> Path:
    """The folder that holds JPEGImages; UserError where there is none, or several."""
    found = sorted(f.parent for depth in ("", "*/", "*/*/") for f in root.glob(f"{depth}JPEGImages"))
    if len(found) == 1:
        return found[0]
    if found:
        years = " and ".join(str(f) for f in found)
        raise UserError(f"{root} holds {years}: set data.root to one of them")
    raise UserError(
        f"{root} holds no JPEGImages: set data.root to the folder that has JPEGImages, "
        "SegmentationClass and ImageSets"
    )
