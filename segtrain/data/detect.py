"""What kind of dataset a folder is, from the names of what is in it.

A few files are decoded only where the names of folders don't tell images from masks.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from itertools import permutations
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Set, Tuple

from PIL import Image

from segtrain.data import yolo
from segtrain.data.files import IMAGES, MASKS
from segtrain.data.pairs import below, names, stem
from segtrain.errors import UserError

SPLIT_WORDS = {
    "train": {"train", "training", "tr"},
    "val": {"val", "valid", "validation", "dev"},
    "test": {"test", "testing"},
}
IMAGE_WORDS = {
    "images",
    "image",
    "imgs",
    "img",
    "jpegimages",
    "inputs",
    "input",
    "rgb",
    "photos",
    "data",
}
MASK_WORDS = {
    *("masks", "mask", "labels", "label", "annotations", "annotation", "annot", "gt", "groundtruth"),
    *("segmentations", "segmentation", "seg", "segmentationclass", "targets", "target", "truth"),
}
MASK_SUFFIX = re.compile(
    r"[ ._-](masks?|labels?|gt|seg|segmentation|annotation|truth|l)$", re.IGNORECASE
)


FEW = 5  # files of a folder that tell what all are
MANY = 8  # files of one name, of which some two may be a pair
Files = Tuple[Path, ...]  # of a sample: an image and its mask, or a record of signals


class Found(NamedTuple):
    """A format with its options, and what a person should know."""

    name: str
    options: Dict[str, Any]
    notes: List[str]
    samples: Optional[Dict[str, List[Files]]] = None  # by split, "" where there is none


def detect(root: Path) -> Found:
    """The format of the folder `root`; UserError where it looks like none."""
    if not root.is_dir():
        raise UserError(f"no folder {root.absolute()}: give the dataset's folder")
    for look in (_voc, _cityscapes, _ade20k, _instances, _coco, _yolo, _signals):
        found = look(root)
        if found:
            return found
    return _pairs(root)


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
        split = _split(path.relative_to(root))
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
        samples[_split(path.relative_to(root)) or ""].append((path,))
    notes = [f"{len(files)} records of signals"]
    if {"train"} < set(samples) and "" in samples:
        left_out = samples.pop("")
        notes.append(
            f"LEFT OUT: {len(left_out)} files in no split's folder, {left_out[0][0]} among them"
        )
    return Found("signals", {"root": str(root)}, notes, dict(samples))


# ---- pairs of files


def _pairs(root: Path) -> Found:
    """Images and masks of one name, wherever they lie."""
    found = [path for path in below(root) if path.suffix.lower() in IMAGES | MASKS]
    images, masks = _sorted(root, found, Words(IMAGE_WORDS, MASK_WORDS))
    if not masks:
        images, masks = _sorted(root, found, _words_by_content(root, found))
    both = sorted(set(images) & set(masks))
    if not both:
        raise UserError(
            f"{root}: {len(images)} images and {len(masks)} masks, and none of one name; put them "
            "into images/ and masks/, or name them a.jpg and a_mask.png"
        )
    splits: Dict[str, List[Files]] = defaultdict(list)
    for key in both:
        splits[key[0]].append((images[key], masks[key]))
    notes = [f"{len(both)} pairs of image and mask"]
    for alone, what in ((set(images) - set(masks), "image"), (set(masks) - set(images), "mask")):
        if alone:
            one = (images if what == "image" else masks)[min(alone)]
            notes.append(f"LEFT OUT: {len(alone)} {what}s without a partner, {one} among them")
    listed = None if "train" in splits else _by_lists(root, splits.get("", []))
    if listed:
        left_out = len(both) - len({pair for pairs in listed[0].values() for pair in pairs})
        notes += [*listed[1], *([f"LEFT OUT: {left_out} pairs in no list"] if left_out else [])]
        return Found("list", {"root": str(root)}, notes, listed[0])
    return _as_folder(root, dict(splits), notes)


def _by_lists(root: Path, pairs: Sequence[Files]) -> Optional[Tuple[Dict[str, List[Files]], List[str]]]:
    """The splits that list files like train.txt tell, and notes; None where there are no such files.

    A line begins with an image's path, or its name, with or without the ending.
    """
    known: Dict[str, List[Files]] = defaultdict(list)
    for pair in pairs:
        inside = pair[0].relative_to(root).with_suffix("")
        for name in {inside.as_posix(), inside.name}:
            known[name].append(pair)
    splits: Dict[str, List[Files]] = {}
    notes = []
    for path in [*sorted(root.glob("*.txt")), *sorted(root.glob("*/*.txt"))]:
        split = next((s for s, words in SPLIT_WORDS.items() if set(_words(path)) & words), None)
        if split is None or split in splits:
            continue
        found = [_named(line, known) for line in names(path)]
        present = list(dict.fromkeys(pair for pair in found if pair))
        if 2 * len(present) < len(found) or not present:
            continue
        splits[split] = present
        notes.append(f"{path.name} names the {len(present)} of {split}")
        if None in found:
            notes.append(f"LEFT OUT: {found.count(None)} lines of {path.name} that name no pair")
    return (splits, notes) if "train" in splits and len(splits) > 1 else None


def _named(line: str, known: Dict[str, List[Files]]) -> Optional[Files]:
    for text in (line, re.split(r"[\t ,]", line)[0]):
        for name in (text, stem(text, IMAGES), Path(stem(text, IMAGES)).name):
            if len(known.get(name, [])) == 1:
                return known[name][0]
    return None


def _words(path: Path) -> List[str]:
    return re.split(r"[ ._-]", path.stem.lower())


class Words(NamedTuple):
    """Names of folders, in small letters, that hold images, or masks."""

    images: Set[str]
    masks: Set[str]


def _sorted(root: Path, found: List[Path], words: Words) -> Tuple[Dict[Tuple, Path], Dict[Tuple, Path]]:
    """The images and the masks, by what the two of a pair share."""
    images: Dict[Tuple, Path] = {}
    masks: Dict[Tuple, Path] = {}
    for path in found:
        key, is_mask = _key(path.relative_to(root), words)
        where = masks if is_mask else images
        if key in where:
            raise UserError(f"{where[key]} and {path} have one name: which is it?")
        where[key] = path
    return images, masks


def _words_by_content(root: Path, found: List[Path]) -> Words:
    """The words, and the names of two folders with files of one name, of which one's look like masks."""
    of_stem: Dict[str, List[Path]] = defaultdict(list)
    for path in found:
        of_stem[path.stem].append(path)
    twins: Dict[Tuple[str, str], List[Tuple[Path, Path]]] = defaultdict(list)
    for same in of_stem.values():
        for one, other in permutations(same[:MANY], 2):
            folders = [path.relative_to(root).parts[:-1] for path in (one, other)]
            differing = {(a.lower(), b.lower()) for a, b in zip(*folders) if a.lower() != b.lower()}
            if len(differing) == 1 and len(folders[0]) == len(folders[1]):
                twins[differing.pop()].append((one, other))
    for (image_word, mask_word), pairs in sorted(twins.items()):
        few = pairs[:: -(-len(pairs) // FEW)]
        plain = [sum(map(_has_few_colours, side)) for side in zip(*few)]
        if plain[1] > len(few) / 2 > plain[0]:
            return Words(IMAGE_WORDS | {image_word}, MASK_WORDS | {mask_word})
    return Words(IMAGE_WORDS, MASK_WORDS)


def _has_few_colours(path: Path) -> bool:
    """Whether a picture has so few colours that it's no photograph; False for a damaged one."""
    try:
        with Image.open(path) as file:
            return file.convert("RGB").getcolors(maxcolors=64) is not None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return False


def _key(path: Path, words: Words) -> Tuple[Tuple, bool]:
    """The split, and the rest of a file's path that an image and its mask share; whether it's a mask."""
    split, rest, is_mask = _split(path) or "", [], False
    for part in path.parts[:-1]:
        word = part.lower()
        if word.endswith("annot"):
            is_mask, word = True, word[: -len("annot")]
        is_mask |= word in words.masks
        if word not in words.masks | words.images | set().union(*SPLIT_WORDS.values()) and word:
            rest.append(part)
    stem = path.stem
    suffix = MASK_SUFFIX.search(stem)
    if suffix:
        stem, is_mask = stem[: suffix.start()], True
    return (split, *rest, stem), is_mask


def _as_folder(root: Path, splits: Dict[str, List[Files]], notes: List[str]) -> Found:
    """The `folder` format, where it can say it; else pairs, for list files."""
    found = Found("list", {"root": str(root)}, notes, splits)
    every = [pair for pairs in splits.values() for pair in pairs]
    parts = [[path.relative_to(root).parts for path in pair] for pair in every]
    plain = all(len(image) == len(mask) == 3 and image[0] == mask[0] for image, mask in parts)
    plain &= all(image.stem == mask.stem for image, mask in every)
    called = [{folders[k][1] for folders in parts if plain} for k in (0, 1)]
    homes = {split: pairs[0][0].relative_to(root).parts[0] for split, pairs in splits.items()}
    left_out = any(note.startswith("LEFT OUT") for note in notes)
    if not plain or left_out or max(map(len, called)) > 1 or not {"train", "val"} <= set(splits):
        return found
    options = dict(found.options)
    for option, folders in zip(("images", "masks"), called):
        if folders != {option}:
            options[option] = folders.pop()
    if any(split != home for split, home in homes.items()):
        options["splits"] = homes
    return found._replace(name="folder", options=options)


def _split(path: Path) -> Optional[str]:
    """The split that a path names: in a folder's name, or at the start of a file's."""
    words = [part.lower() for part in path.parts[:-1]]
    words = [word[: -len("annot")] if word.endswith("annot") else word for word in words]
    words.append(re.split(r"[ ._-]", path.stem.lower())[0] if path.suffix == ".json" else "")
    words += re.split(r"[ ._-]", path.stem.lower())[1:] if path.suffix == ".json" else []
    for split, known in SPLIT_WORDS.items():
        if any(re.sub(r"\d+$", "", word) in known for word in words):
            return split
    return None


def _folders(home: Path) -> List[Path]:
    return sorted(path for path in home.iterdir() if path.is_dir()) if home.is_dir() else []


def _all_folders(root: Path) -> List[Path]:
    return sorted(path for path in root.rglob("*") if path.is_dir())
