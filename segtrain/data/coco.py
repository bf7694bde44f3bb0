"""COCO: objects as polygons or run lengths in a JSON file, drawn over class 0, the background."""

from __future__ import annotations

import json
import sys
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Any, Dict, List, Literal, NamedTuple, Optional, Tuple

import numpy as np
from pycocotools import mask as run_lengths

from segtrain.data.dataset import Sample
from segtrain.data.files import read_image
from segtrain.data.labels import check
from segtrain.data.pairs import check_kind, check_size, dtype, open_root
from segtrain.errors import UserError, nearest
from segtrain.prediction.infer import Kind

BACKGROUND, IGNORE = "background", 255
NEEDED = {
    "images": ("id", "file_name", "height", "width"),
    "annotations": ("id", "image_id", "category_id", "area", "segmentation"),
    "categories": ("id", "name"),
}


class Region(NamedTuple):
    """An object of an image: what it is and its outline, as the JSON file has it."""

    id: Any
    value: int  # of its pixels: class id, or IGNORE for a crowd
    area: float
    outline: Any


class Picture(NamedTuple):
    """An image file, and its height and width as the JSON file has them."""

    path: Path
    size: Tuple[int, int]


class Coco:
    """The images of a JSON file and their regions; nothing is decoded before it is read.

    Regions are drawn in the order given, so that later ones hide earlier ones; crowds last.
    """

    ignore = IGNORE
    problems: List[str] = []

    def __init__(
        self, source: Path, images: Dict[Picture, List[Region]], classes: List[str], kind: Kind
    ):
        check_kind(kind)
        self.classes, self.dtype, self._kind, self._source = classes, dtype(kind), kind, source
        self._pictures, self._regions = list(images), list(images.values())
        self.ids = [picture.path.name for picture in images]

    def name(self, index: int) -> str:
        return str(self._pictures[index].path)

    def files(self, index: int) -> tuple[Path, ...]:
        return (self._pictures[index].path, self._source)

    def read(self, index: int) -> Sample:
        path, size = self._pictures[index]
        image, mask = read_image(path, self._kind), np.zeros(size, np.uint8)
        check_size(image, path, mask, self._source)
        for region in self._regions[index]:
            mask[self._decode(region, *size)] = region.value
        return Sample(image, mask)

    def _decode(self, region: Region, height: int, width: int) -> np.ndarray:
        """The region's pixels, (H, W) bool."""
        outline = region.outline
        try:
            if isinstance(outline, list):
                if not outline or not all(len(p) >= 6 and len(p) % 2 == 0 for p in outline):
                    raise ValueError("a polygon needs three points or more, x and y of each")
                lengths = run_lengths.merge(run_lengths.frPyObjects(outline, height, width))
            elif isinstance(outline["counts"], list):
                if sum(outline["counts"]) != np.prod(outline["size"]):
                    raise ValueError(f"its run lengths make {sum(outline['counts'])} pixels")
                lengths = run_lengths.frPyObjects(outline, *outline["size"])
            else:
                lengths = outline
            if tuple(lengths["size"]) != (height, width):
                raise ValueError(f"its size is {lengths['size']}, its image's {[height, width]}")
            return run_lengths.decode(lengths).astype(bool)
        except (TypeError, KeyError, ValueError, IndexError) as error:
            raise UserError(
                f"{self._source}: the segmentation of annotation {region.id} can't be drawn "
                f"({error}): mend it, or take it out"
            ) from None


def build(
    split: str,
    *,
    root: Path,
    annotations: Dict[str, Path],
    images: Dict[str, Path] = {},
    classes: Optional[List[str]] = None,
    order: Literal["area", "annotation"] = "area",
    channels: int = 3,
    depth: Literal[8, 16, 32] = 8,
) -> Coco:
    """The named split; class 0 is the background, and crowds are ignored.

    root: the dataset's folder; annotations: the JSON file of each split, relative to it; images:
    the folder of each split's images, relative to it, called like the split where nothing else is
    said; classes: the categories to learn, all if null, the others are background; order: what
    hides what where objects overlap, the smaller one (area), or the one that stands later in the
    file (annotation); channels, depth: as in `folder`.
    """
    if split not in annotations:
        raise UserError(f"no split {split!r} in data.annotations; {nearest(split, annotations)}")
    source = open_root(root) / annotations[split]
    content = _parsed(source)
    try:
        names = _names(content["categories"], source)
        chosen = _chosen(names, classes, source)
        values = {id_: chosen.index(name) + 1 for id_, name in names.items() if name in chosen}
        found = _images(content["images"], root / images.get(split, Path(split)), source)
        regions = _regions(content["annotations"], {*names}, values, {*found}, source)
    except (TypeError, ValueError) as error:
        raise UserError(f"{source}: an entry isn't as COCO files have it ({error})") from None
    drawn = {picture: _sorted(regions.get(id_, []), order) for id_, picture in found.items()}
    return Coco(source, drawn, [BACKGROUND, *chosen], Kind(channels, depth))


def _chosen(names: Dict[Any, str], classes: Optional[List[str]], source: Path) -> List[str]:
    """The categories to learn; UserError for one that isn't there."""
    chosen = list(names.values()) if classes is None else classes
    for name in chosen:
        if name not in names.values():
            raise UserError(f"data.classes: {source} has no {name!r}; {nearest(name, names.values())}")
    check([BACKGROUND, *chosen], IGNORE)
    return chosen


def _sorted(regions: List[Region], order: str) -> List[Region]:
    """The regions as they are to be drawn: crowds last, the others by area or as they stand."""
    area = -1 if order == "area" else 0
    return sorted(regions, key=lambda region: (region.value == IGNORE, area * region.area))


def _parsed(source: Path) -> Dict[str, List[Dict[str, Any]]]:
    try:
        content = json.loads(source.read_bytes())
    except OSError as error:
        raise UserError(f"{source}: {error.strerror}: see data.annotations") from None
    except ValueError as error:
        raise UserError(f"{source}: not JSON ({error})") from None
    for part, keys in NEEDED.items():
        if not isinstance(content, dict) or not isinstance(content.get(part), list):
            raise UserError(f"{source} has no list {part!r}: it is no COCO file of annotated objects")
        for entry in content[part]:
            if not isinstance(entry, dict):
                raise UserError(
                    f"{source}: an entry of {part} isn't as COCO files have it: {entry!r:.80}"
                )
            lacking = [key for key in keys if key not in entry]
            if lacking:
                raise UserError(f"{source}: {lacking[0]!r} is missing in {part}: {str(entry)[:80]}")
    return content


def _names(categories: List[Dict[str, Any]], source: Path) -> Dict[Any, str]:
    """Category id -> class; those that share a name are told apart by their ids."""
    plain = {c["id"]: str(c["name"]) for c in sorted(categories, key=lambda c: c["id"])}
    if len(plain) != len(categories):
        raise UserError(f"{source}: two categories have one id")
    count = Counter([BACKGROUND, *plain.values()])
    names = {id_: name if count[name] == 1 else f"{name} (id {id_})" for id_, name in plain.items()}
    apart = [names[id_] for id_ in plain if names[id_] != plain[id_]]
    if apart:
        _tell(f"{source.name}: categories that share a name are kept apart: {', '.join(apart)}")
    return names


@lru_cache(maxsize=None)
def _tell(text: str) -> None:
    """Say it on stderr, once."""
    print(text, file=sys.stderr)


def _images(images: List[Dict[str, Any]], folder: Path, source: Path) -> Dict[Any, Picture]:
    """Image id -> file; UserError for one that isn't there."""
    found = {
        i["id"]: Picture(folder / i["file_name"], (int(i["height"]), int(i["width"]))) for i in images
    }
    if not folder.is_dir():
        raise UserError(f"no folder {folder}: see data.images, the folder of each split")
    lacking = [p.path for p in found.values() if not p.path.is_file()]
    if lacking:
        more = f" (and {len(lacking) - 1} more)" if len(lacking) > 1 else ""
        raise UserError(f"{source} names {lacking[0]}, which isn't there{more}: see data.images")
    if len({*found.values()}) != len(images):
        raise UserError(f"{source}: an image, or its id, is there twice")
    return found


def _regions(
    annotations: List[Dict[str, Any]], known: set, values: Dict[Any, int], images: set, source: Path
) -> Dict[Any, List[Region]]:
    """Image id -> its regions of the chosen categories, in the file's order."""
    regions: Dict[Any, List[Region]] = {}
    for a in annotations:
        for key, ids in (("category_id", known), ("image_id", images)):
            if a.get(key) not in ids:
                raise UserError(
                    f"{source}: annotation {a.get('id')} has {key} {a.get(key)}: no such one"
                )
        if not a.get("segmentation"):
            raise UserError(f"{source}: annotation {a.get('id')} has no segmentation, only a box?")
        if a["category_id"] in values:
            value = IGNORE if a.get("iscrowd") else values[a["category_id"]]
            region = Region(a["id"], value, float(a["area"]), a["segmentation"])
            regions.setdefault(a["image_id"], []).append(region)
    return regions
