"""Images and masks in folders, paired by name.

Either a folder per split, ``ROOT/train/images`` and ``ROOT/train/masks``, or one pair of folders,
``ROOT/images`` and ``ROOT/masks``, with a list file per split, ``ROOT/train.txt``: a name a line.
"""

from __future__ import annotations

from pathlib import Path
from typing import Dict, List, Literal, Optional, Tuple

from segtrain.data.files import IMAGES, MASKS
from segtrain.data.labels import labels
from segtrain.data.pairs import Pairs, files, names, open_root, pair, stem
from segtrain.errors import UserError
from segtrain.prediction.infer import Kind


def build(
    split: str,
    *,
    root: Path,
    classes: List[str],
    ignore: Optional[int] = 255,
    label_map: Dict[int, int] = {},
    palette: Dict[str, Tuple[int, int, int]] = {},
    tolerance: int = 0,
    variable: Optional[str] = None,
    images: str = "images",
    masks: str = "masks",
    image_suffix: str = "",
    mask_suffix: str = "",
    splits: Dict[str, str] = {},
    channels: int = 3,
    depth: Literal[8, 16, 32] = 8,
) -> Pairs:
    """The named split.

    root: the dataset's folder; classes: their names, in the order of their ids; ignore: the id
    that counts nowhere, null if there is none; label_map: raw id to class id or `ignore`, others
    stay; palette: the colour [red, green, blue] of each class, and of ``ignore``, in masks of
    colours; tolerance: how far a value or a colour may be from the nearest known one; variable:
    the one of .mat masks; images, masks: names of the folders, perhaps one and the same;
    image_suffix, mask_suffix: ends of their files' names, as ``_mask`` in ``a_mask.png``; splits:
    the folder or list file of a split, where it is not called like the split; channels:
    of an image, 3 for RGB and 1 for grey; depth: bits of its values, 8 or 16, 32 for floating point.
    """
    meaning = labels(classes, ignore, label_map, palette, tolerance)
    if images == masks and image_suffix == mask_suffix:
        raise UserError(f"data.images and data.masks are both {images}: set data.mask_suffix")
    base, wanted, source = _split(open_root(root), split, splits.get(split, split), image_suffix)
    see = "data.images, data.masks and data.splits"
    pictures = files(base / images, IMAGES, image_suffix, see)
    truths = files(base / masks, MASKS, mask_suffix, see)
    both = {*pictures.values()} & {*truths.values()}  # of one folder: the longer suffix has them
    other = truths if len(image_suffix) > len(mask_suffix) else pictures
    for name in [name for name, path in other.items() if path in both]:
        del other[name]
    return Pairs(pair(pictures, truths, wanted, source), meaning, Kind(channels, depth), variable)


def _split(
    root: Path, split: str, home: str, suffix: str
) -> tuple[Path, Optional[List[str]], Optional[Path]]:
    """Where the split's folders are, and its names where a list file has them."""
    if (root / home).is_dir():
        return root / home, None, None
    path = root / (home if home.endswith(".txt") else f"{home}.txt")
    if not path.is_file():
        raise UserError(f"no split {split!r} in {root}: neither a folder {split}/ nor {path.name}")
    stems = [stem(name, IMAGES) for name in names(path)]
    return root, [s[: len(s) - len(suffix)] if s.endswith(suffix) else s for s in stems], path
