"""YOLO's segmentation labels: a text file per image with a polygon on each line, over class 0.

``ROOT/images/train/a.jpg`` and ``ROOT/labels/train/a.txt``, or ``ROOT/train/images`` and
``ROOT/train/labels``: the label's path is the image's with `labels` for its last `images`. A line is
a class id, from 0, and x and y of three points or more, in parts of the image's width and height.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Literal, Optional, Tuple

import numpy as np
import yaml
from pycocotools import mask as run_lengths

from segtrain.data.dataset import Sample
from segtrain.data.files import IMAGES, read_image
from segtrain.data.labels import check
from segtrain.data.pairs import check_kind, dtype, files, lines, open_root
from segtrain.errors import UserError
from segtrain.prediction.infer import Kind

BACKGROUND = "background"
FOLDERS = {"train": ("train",), "val": ("val", "valid"), "test": ("test",)}


class Yolo:
    """The images of a folder; larger objects are drawn first, so that smaller ones stay on top."""

    ignore = 255
    problems: List[str] = []

    def __init__(self, home: Path, classes: List[str], kind: Kind):
        check_kind(kind)
        self.classes, self.dtype, self._kind = classes, dtype(kind), kind
        found = files(home, IMAGES, see="data.root and data.splits")
        self.ids = [path.relative_to(home).as_posix() for path in found.values()]
        self._images = list(found.values())

    def name(self, index: int) -> str:
        return str(self._images[index])

    def files(self, index: int) -> tuple[Path, ...]:
        image = self._images[index]
        label = label_of(image)
        return (image, label) if label.is_file() else (image,)

    def read(self, index: int) -> Sample:
        image = read_image(self._images[index], self._kind)
        mask = np.zeros(image.shape[:2], np.uint8)
        label = label_of(self._images[index])
        if label.is_file():  # without one there is nothing in the image
            _draw(mask, label, len(self.classes) - 1)
        return Sample(image, mask)


def build(
    split: str,
    *,
    root: Path,
    classes: Optional[List[str]] = None,
    splits: Dict[str, Path] = {},
    channels: int = 3,
    depth: Literal[8, 16, 32] = 8,
) -> Yolo:
    """The named split; class 0 is the background, and YOLO's class 0 is class 1.

    root: the dataset's folder; classes: YOLO's, in the order of its ids, null: as data.yaml in `root`
    names them; splits: the folder of a split's images, relative to `root`, where it isn't found by
    itself; channels, depth: as in `folder`.
    """
    home = _home(open_root(root), split, splits)
    if not label_of(home / "any").parent.is_dir():
        raise UserError(f"{home}: there is no {label_of(home / 'any').parent} with its labels")
    named = names(root) if classes is None else classes
    if not named:
        raise UserError(f"set data.classes: there is no data.yaml with names in {root}")
    check([BACKGROUND, *named], 255)
    return Yolo(home, [BACKGROUND, *named], Kind(channels, depth))


def names(root: Path) -> List[str]:
    """The classes that a YAML file in the dataset's folder names, in the order of their ids."""
    for path in sorted([*root.glob("*.yaml"), *root.glob("*.yml")]):
        try:
            content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            continue
        found = content.get("names") if isinstance(content, dict) else None
        if isinstance(found, dict) and set(found) == set(range(len(found))):
            found = [found[key] for key in sorted(found)]
        if isinstance(found, list) and found:
            return [str(name) for name in found]
    return []


def label_of(image: Path) -> Path:
    """Where the label of an image is."""
    parts = list(image.parts)
    if "images" not in parts[:-1]:
        raise UserError(f"{image}: YOLO's images lie under a folder `images`, with `labels` beside it")
    place = len(parts) - 2 - parts[-2::-1].index("images")
    return Path(*parts[:place], "labels", *parts[place + 1 :]).with_suffix(".txt")


def _home(root: Path, split: str, splits: Dict[str, Path]) -> Path:
    """The folder of the split's images."""
    if split in splits:
        return root / splits[split]
    tried = [p for name in FOLDERS[split] for p in (root / "images" / name, root / name / "images")]
    for path in tried:
        if path.is_dir():
            return path
    raise UserError(f"no split {split!r}: neither {tried[0]} nor {tried[1]}; or set data.splits")


def _draw(mask: np.ndarray, label: Path, classes: int) -> None:
    """The objects of a label file, into a mask of zeros; UserError names a line that isn't right."""
    objects: List[Tuple[int, int, np.ndarray]] = []
    for number, line in enumerate(lines(label), 1):
        if not line:
            continue
        value, points = _parsed(line, f"{label}, line {number}", classes)
        outline = (points * mask.shape[::-1]).ravel().tolist()
        pixels = run_lengths.decode(run_lengths.frPyObjects([outline], *mask.shape))[..., 0]
        objects.append((int(pixels.sum()), value, pixels.astype(bool)))
    for _, value, pixels in sorted(objects, key=lambda found: -found[0]):
        mask[pixels] = value


def _parsed(line: str, place: str, classes: int) -> Tuple[int, np.ndarray]:
    """The class, from 1 on, and the points (N, 2) of a line."""
    try:
        value, points = int(line.split()[0]), np.array(line.split()[1:], float)
    except ValueError:
        raise UserError(f"{place}: {line[:60]!r} isn't a class id and numbers") from None
    if len(points) == 4:
        raise UserError(f"{place}: a box, of labels for detection; segmentation needs polygons")
    if len(points) < 6 or len(points) % 2:
        raise UserError(f"{place}: {len(points)} numbers after the class; x and y of 3 points or more")
    if not 0 <= value < classes:
        raise UserError(f"{place}: class {value}, and there are {classes}, from 0 on: see data.classes")
    if not (points.min() >= -0.01 and points.max() <= 1.01):
        raise UserError(f"{place}: x and y are parts of the image's size, from 0 to 1")
    return value + 1, points.reshape(-1, 2).clip(0, 1)
