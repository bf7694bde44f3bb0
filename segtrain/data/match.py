"""Which images and masks of a folder belong together, from their names, wherever they lie.

A few files are decoded only where the names of folders don't tell images from masks.
"""

from __future__ import annotations

import re
from collections import defaultdict
from itertools import permutations
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

from PIL import Image

from segtrain.data.files import IMAGES, MASKS
from segtrain.data.found import SPLIT_WORDS, Files, Found, split_of, words_of
from segtrain.data.pairs import below, names, stem
from segtrain.errors import UserError

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


def matched(root: Path) -> Found:
    """The pairs of a folder, as the format `folder` where it can say them, else `list`.

    UserError where no image has a mask, or two files would be the same one of a pair.
    """
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
    notes = [f"{len(both)} pairs of image and mask", *_alone(images, masks)]
    listed = None if "train" in splits else _by_lists(root, splits.get("", []))
    if listed:
        left_out = len(both) - len({pair for pairs in listed[0].values() for pair in pairs})
        notes += [*listed[1], *([f"LEFT OUT: {left_out} pairs in no list"] if left_out else [])]
        return Found("list", {"root": str(root)}, notes, listed[0])
    options = _folder_options(root, splits) if images.keys() == masks.keys() else None
    if options is None:
        return Found("list", {"root": str(root)}, notes, dict(splits))
    return Found("folder", {"root": str(root), **options}, notes, dict(splits))


def _alone(images: Dict[Tuple, Path], masks: Dict[Tuple, Path]) -> Iterator[str]:
    """Notes on the images that have no mask, and on the masks that have no image."""
    for what, files, others in (("image", images, masks), ("mask", masks, images)):
        alone = files.keys() - others.keys()
        if alone:
            one = files[min(alone)]
            yield f"LEFT OUT: {len(alone)} {what}s without a partner, {one} among them"


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
        split = next((s for s, words in SPLIT_WORDS.items() if set(words_of(path)) & words), None)
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
    split, rest, is_mask = split_of(path) or "", [], False
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


def _folder_options(root: Path, splits: Dict[str, List[Files]]) -> Optional[Dict[str, Any]]:
    """The options of the format `folder` for SPLIT/images/NAME and SPLIT/masks/NAME, whatever these
    folders are called; None where the files lie otherwise.
    """
    called: Dict[str, Set[str]] = {"images": set(), "masks": set()}
    for pair in (pair for pairs in splits.values() for pair in pairs):
        image, mask = (path.relative_to(root).parts for path in pair)
        if len(image) != 3 or len(mask) != 3 or image[0] != mask[0] or pair[0].stem != pair[1].stem:
            return None
        called["images"].add(image[1])
        called["masks"].add(mask[1])
    if max(map(len, called.values())) > 1 or not {"train", "val"} <= set(splits):
        return None
    options: Dict[str, Any] = {key: min(names) for key, names in called.items() if names != {key}}
    homes = {split: pairs[0][0].relative_to(root).parts[0] for split, pairs in splits.items()}
    if any(split != home for split, home in homes.items()):
        options["splits"] = homes
    return options
