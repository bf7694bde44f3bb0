"""What kind of dataset a folder is, from the names of what is in it."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Dict, List, Optional

from segtrain.data import yolo
from segtrain.data.files import IMAGES
from segtrain.data.found import SPLIT_WORDS, Files, Found, split_of
from segtrain.data.match import matched
from segtrain.data.pairs import below
from segtrain.errors import UserError


def detect(root: Path) -> Found:
    """The format of the folder `root`; UserError where it looks like none."""
    if not root.is_dir():
        raise UserError(f"no folder {root.absolute()}: give the dataset's folder")
    for look in (_voc, _cityscapes, _ade20k, _instances, _coco, _yolo, _signals):
        found = look(root)
        if found:
            return found
    return matched(root)


def _voc(root: Path) -> Optional[Found]:
    homes = [root, *sorted(root.glob("*")), *sorted(root.glob("*/*"))]
    for home in homes:
        if (home / "JPEGImages").is_dir() and (home / "SegmentationClass").is_dir():
            return Found("voc", {"root": str(home)}, ["Pascal VOC's folders"])
    return None


def _cityscapes(root: Path) -> Optional[Found]:
    if (root / "leftImg8bit").is_dir() and (root / "gtFine").is_dir():
        return Found("cityscapes", {"root": str(root)}, ["Cityscapes' folders"])
    return None


def _ade20k(root: Path) -> Optional[Found]:
    if (root / "images/training").is_dir() and (root / "annotations/training").is_dir():
        return Found("ade20k", {"root": str(root)}, ["ADE20K's folders"])
    return None


def _instances(root: Path) -> Optional[Found]:
    for home in (root / "train", root / "stage1_train", root):
        samples = [path for path in _folders(home) if (path / "images").is_dir()]
        samples = [
            path for path in samples if path.name.lower() not in set().union(*SPLIT_WORDS.values())
        ]
        single = [len(list((path / "images").iterdir())) == 1 for path in samples]
        if samples and all(single) and all((path / "masks").is_dir() for path in samples):
            return Found("instances", {"root": str(root)}, ["a folder per sample, a mask per object"])
    return None


def _coco(root: Path) -> Optional[Found]:
    annotations, images = {}, {}
    for path in sorted(root.rglob("*.json")):
        split = split_of(path.relative_to(root))
        first = _first_image(path) if split else None
        if first:
            annotations[split] = path.relative_to(root).as_posix()
            home = next((p for p in [root, *_all_folders(root)] if (p / first).is_file()), None)
            if home is None:
                raise UserError(f"{path} names the image {first!r}, which isn't under {root}")
            images[split] = home.relative_to(root).as_posix()
    if not annotations:
        return None
    options = {"root": str(root), "annotations": annotations, "images": images}
    return Found("coco", options, [f"COCO annotations: {', '.join(annotations.values())}"])


def _yolo(root: Path) -> Optional[Found]:
    if not yolo.names(root):
        return None
    folders = [p for p in (root / "labels", root / "train/labels") if p.is_dir()]
    if not folders or not any(path.suffix == ".txt" for path in below(folders[0])):
        return None
    return Found("yolo", {"root": str(root)}, ["YOLO's polygons"])


def _first_image(path: Path) -> Optional[str]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(content, dict) or not {"images", "annotations", "categories"} <= set(content):
        return None
    return str(content["images"][0]["file_name"]) if content["images"] else None


def _signals(root: Path) -> Optional[Found]:
    files = [path for path in below(root) if path.suffix.lower() in (".csv", ".npz")]
    if not files or any(path.suffix.lower() in IMAGES for path in below(root)):
        return None
    samples: Dict[str, List[Files]] = defaultdict(list)
    for path in files:
        samples[split_of(path.relative_to(root)) or ""].append((path,))
    notes = [f"{len(files)} records of signals"]
    if {"train"} < set(samples) and "" in samples:
        left_out = samples.pop("")
        notes.append(
            f"LEFT OUT: {len(left_out)} files in no split's folder, {left_out[0][0]} among them"
        )
    return Found("signals", {"root": str(root)}, notes, dict(samples))


def _folders(home: Path) -> List[Path]:
    return sorted(path for path in home.iterdir() if path.is_dir()) if home.is_dir() else []


def _all_folders(root: Path) -> List[Path]:
    return sorted(path for path in root.rglob("*") if path.is_dir())
