"""A folder per sample, with an image and a mask file for each object, as in the Data Science Bowl.

``ROOT/train/ID/images/ID.png`` and ``ROOT/train/ID/masks/*.png``: what any mask marks is class 1.
"""

from __future__ import annotations

from pathlib import Path
from typing import Dict, List, Literal

import numpy as np

from segtrain.data.dataset import Sample
from segtrain.data.files import IMAGES, JPEG, MASKS, read_image, read_mask
from segtrain.data.labels import check
from segtrain.data.pairs import check_kind, check_size, dtype, files, names, open_root
from segtrain.errors import UserError
from segtrain.prediction.infer import Kind


class Instances:
    """The samples by id: the image, and the masks of its objects."""

    ignore = 255
    problems: List[str] = []

    def __init__(self, samples: Dict[str, Path], classes: List[str], kind: Kind):
        check_kind(kind)
        self.classes, self.dtype, self._kind = classes, dtype(kind), kind
        self.ids = list(samples)
        self._files = [_sample(folder) for folder in samples.values()]

    def name(self, index: int) -> str:
        return str(self._files[index][0])

    def files(self, index: int) -> tuple[Path, ...]:
        path, masks = self._files[index]
        return (path, *masks)

    def read(self, index: int) -> Sample:
        path, masks = self._files[index]
        image = read_image(path, self._kind)
        union = np.zeros(image.shape[:2], np.uint8)
        for mask_path in masks:
            mask = read_mask(mask_path)
            check_size(image, path, mask, mask_path)
            union |= (mask != 0).astype(np.uint8)
        return Sample(image, union)


def build(
    split: str,
    *,
    root: Path,
    classes: List[str] = ["background", "object"],
    splits: Dict[str, str] = {},
    channels: int = 3,
    depth: Literal[8, 16, 32] = 8,
) -> Instances:
    """The named split.

    root: the dataset's folder; classes: names of what no mask marks, and of what one does; splits:
    the folder of a split (stage1_train), or a list file with a sample's name a line (train.txt, the
    samples under `root`), where it is not called like the split; channels, depth: as in `folder`.
    """
    check(classes, None)
    if len(classes) != 2:
        raise UserError(f"data.classes: {len(classes)} names; instances have two, ground and object")
    samples = _folders(open_root(root), split, splits.get(split, split))
    return Instances(samples, classes, Kind(channels, depth))


def _folders(root: Path, split: str, home: str) -> Dict[str, Path]:
    """The samples' folders by name: those in the split's folder, or those that its list names."""
    if (root / home).is_dir():
        return {f.name: f for f in sorted((root / home).iterdir()) if f.is_dir() and f.name[0] != "."}
    source = root / (home if home.endswith(".txt") else f"{home}.txt")
    if source.is_file():
        return {name: root / name for name in sorted(names(source))}
    raise UserError(f"no split {split!r} in {root}: neither a folder {home}/ nor {source.name}")


def _sample(folder: Path) -> tuple[Path, List[Path]]:
    """A sample's image, and its masks, of which there may be none."""
    images = files(folder / "images", IMAGES, see="data.root and data.splits")
    if len(images) != 1:
        raise UserError(f"{folder / 'images'} holds {len(images)} images, and must hold one")
    masks = files(folder / "masks", MASKS, see="data.root and data.splits: a sample has masks/")
    for path in masks.values():
        if path.suffix.lower() in JPEG:
            raise UserError(f"{path}: JPEG blurs an object's border: save masks as PNG")
    return next(iter(images.values())), list(masks.values())
