"""CamVid with its 11 classes and void: in folders ``train/images`` and ``train/masks``, or SegNet's."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Dict, List, Optional

from segtrain.data.files import IMAGES
from segtrain.data.labels import RawIds
from segtrain.data.pairs import Pairs, files, names, open_root, pair
from segtrain.errors import UserError

CLASSES = [
    *("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian"),
    "bicyclist",
]
VOID = 11


def build(split: str, *, root: Path, splits: Dict[str, str] = {}) -> Pairs:
    """The named split; void, 11, is ignored.

    root: the folder with ``train/images`` and ``train/masks``, or with SegNet's ``train``,
    ``trainannot`` and ``train.txt``; splits: the folder of a split, where it is not called like it.
    """
    home = open_root(root) / splits.get(split, split)
    annotations, source = home.with_name(f"{home.name}annot"), home.with_name(f"{home.name}.txt")
    wanted: Optional[List[str]] = None
    if (home / "images").is_dir():
        images, masks = home / "images", home / "masks"
    elif annotations.is_dir():
        images, masks = home, annotations
        wanted = _listed(source) if source.is_file() else None
    else:
        raise UserError(
            f"no split {split!r}: {home} has no folder images, and there is no {annotations}: "
            "see data.root and data.splits"
        )
    pairs = pair(files(images, IMAGES), files(masks, {".png"}), wanted, source)
    return Pairs(pairs, RawIds(CLASSES, VOID, fixed=True))


def _listed(source: Path) -> List[str]:
    """The names in SegNet's list of two columns, whose paths start at a folder of its authors."""
    return [PurePosixPath(line.split()[0]).stem for line in names(source)]
