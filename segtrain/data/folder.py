"""Images and masks in folders, paired by name.

Either a folder per split, ``ROOT/train/images`` and ``ROOT/train/masks``, or one pair of folders,
``ROOT/images`` and ``ROOT/masks``, with a list file per split, ``ROOT/train.txt``: a name a line.
"""

from __future__ import annotations

from pathlib import Path
from typing import Dict, List, Optional

import numpy as np

from segtrain.data.dataset import Sample, describe
from segtrain.data.files import IMAGES, MASKS, read_image, read_mask
from segtrain.errors import UserError


class Folder:
    """Pairs of image and mask files."""

    def __init__(
        self,
        pairs: dict[str, tuple[Path, Path]],
        problems: List[str],
        classes: List[str],
        ignore: Optional[int],
        label_map: Dict[int, int],
    ):
        self.classes, self.dtype = classes, "uint8"
        self.ignore = 255 if ignore is None else ignore
        self.ids, self.problems = list(pairs), problems
        self._pairs = list(pairs.values())
        self._table = _table(len(classes), ignore, label_map)

    def name(self, index: int) -> str:
        return str(self._pairs[index][0])

    def files(self, index: int) -> tuple[Path, ...]:
        return self._pairs[index]

    def read(self, index: int) -> Sample:
        image_path, mask_path = self._pairs[index]
        image, raw = read_image(image_path), read_mask(mask_path)
        if image.shape[:2] != raw.shape:
            raise UserError(
                f"{mask_path} is {raw.shape[1]}x{raw.shape[0]} and its image {image_path} "
                f"{image.shape[1]}x{image.shape[0]}: a mask must have its image's size"
            )
        return Sample(image, self._ids(raw, mask_path))

    def _ids(self, raw: np.ndarray, path: Path) -> np.ndarray:
        inside = raw if raw.dtype == np.uint8 else np.clip(raw, -1, len(self._table) - 1)
        ids = self._table[inside]
        if ids.min() < 0:
            wrong = np.unique(raw[ids < 0])
            share = 100 * float((ids < 0).mean())
            raise UserError(
                f"{path} holds {describe([], wrong[:8])} ({share:.2g}% of its pixels), and there "
                f"are {len(self.classes)} classes, 0 to {len(self.classes) - 1}: "
                f"set data.label_map={{{int(wrong[0])}: CLASS}}, or data.ignore={int(wrong[0])}"
            )
        return ids.astype(np.uint8)


def build(
    split: str,
    *,
    root: Path,
    classes: List[str],
    ignore: Optional[int] = 255,
    label_map: Dict[int, int] = {},
    images: str = "images",
    masks: str = "masks",
    splits: Dict[str, str] = {},
) -> Folder:
    """The named split.

    root: the dataset's folder; classes: their names, in the order of their ids; ignore: the id
    that counts nowhere, null if there is none; label_map: raw id to class id or `ignore`, others
    stay; images, masks: names of the folders; splits: the folder or list file of a split, where
    it is not called like the split.
    """
    _check(classes, ignore, label_map)
    if not root.is_dir():
        raise UserError(f"no folder {root.absolute()}: set data.root to the dataset's folder")
    home = splits.get(split, split)
    if (root / home).is_dir():
        base = root / home
        found = _files(base / images, IMAGES), _files(base / masks, MASKS)
        wanted = set(found[0]) | set(found[1])
    else:
        base = root
        wanted = _listed(root / (home if home.endswith(".txt") else f"{home}.txt"), root, split)
        found = _files(base / images, IMAGES), _files(base / masks, MASKS)
    return Folder(*_pair(wanted, *found, base), classes, ignore, label_map)


def _pair(
    wanted: set[str], images: dict[str, Path], masks: dict[str, Path], base: Path
) -> tuple[dict[str, tuple[Path, Path]], List[str]]:
    """The pairs by name, and what is wrong with the names that are none."""
    rule = "the names must be equal up to the ending, as in images/a.jpg and masks/a.png"
    problems = []
    for name in sorted(wanted - (set(images) & set(masks))):
        if name in images:
            problems.append(f"{images[name]}: an image without a mask; {rule}")
        elif name in masks:
            problems.append(f"{masks[name]}: a mask without an image; {rule}")
        else:
            problems.append(f"{base}: the list names {name!r}, which has no image and no mask")
    both = sorted(wanted & set(images) & set(masks))
    return {name: (images[name], masks[name]) for name in both}, problems


def _files(folder: Path, endings: set[str]) -> dict[str, Path]:
    if not folder.is_dir():
        raise UserError(f"no folder {folder}: see data.images, data.masks and data.splits")
    files: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).with_suffix("").as_posix()
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() not in endings or hidden:
            continue
        if name in files:
            raise UserError(f"{files[name]} and {path} have one name: which is it?")
        files[name] = path
    return files


def _listed(path: Path, root: Path, split: str) -> set[str]:
    if not path.is_file():
        raise UserError(f"no split {split!r} in {root}: neither a folder {split}/ nor {path.name}")
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a text file in UTF-8, with a name on each line") from None
    return {_stem(name) for name in names if name}


def _stem(name: str) -> str:
    path = Path(name)
    return (path.with_suffix("") if path.suffix.lower() in IMAGES else path).as_posix()


def _check(classes: List[str], ignore: Optional[int], label_map: Dict[int, int]) -> None:
    if not 2 <= len(classes) <= 255:
        raise UserError(f"data.classes: {len(classes)} names; there must be 2 to 255")
    if len(set(classes)) != len(classes):
        raise UserError("data.classes: a name is there twice")
    if ignore is not None and not 0 <= ignore <= 255:
        raise UserError(f"data.ignore={ignore}: an id from 0 to 255, or null")
    for raw, target in label_map.items():
        if not 0 <= raw < 65536 or not (0 <= target < len(classes) or target == ignore):
            raise UserError(f"data.label_map: {raw}: {target} leads to no class and not to ignore")


def _table(classes: int, ignore: Optional[int], label_map: Dict[int, int]) -> np.ndarray:
    """Raw id -> class id; -1 for an id that is no class. The last entry stands for -1 itself."""
    table = np.full(65537, -1, np.int16)
    table[:classes] = np.arange(classes)
    if ignore is not None:
        table[ignore] = ignore
    for raw, target in label_map.items():
        table[raw] = target
    return table
