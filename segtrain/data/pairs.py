"""Pairs of image and mask files: what most formats come down to, however they find the files."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Mapping, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np

from segtrain.data.dataset import Sample
from segtrain.data.files import JPEG, read_image, read_mask
from segtrain.data.labels import Labels
from segtrain.errors import UserError
from segtrain.prediction.infer import Kind

AnyPath = Union[str, Path]  # a million paths are kept as text, which takes a fifth of the memory


class Matches(NamedTuple):
    """Pairs of image and mask by name, and "FILE: what is wrong" of the files that are in none."""

    pairs: Mapping[str, Tuple[AnyPath, AnyPath]]
    problems: Sequence[str] = ()


class Pairs:
    """The pairs by id; `labels` tells the classes in a mask, `kind` what the images are.

    variable: the one of .mat masks that holds the ids.
    """

    def __init__(
        self,
        matches: Matches,
        labels: Labels,
        kind: Kind = Kind(),
        variable: Optional[str] = None,
    ):
        check_kind(kind)
        self.classes = labels.classes
        self.ignore = 255 if labels.ignore is None else labels.ignore
        self.dtype = dtype(kind)
        self.ids, self.problems = list(matches.pairs), list(matches.problems)
        self._pairs = list(matches.pairs.values())
        self._labels, self._kind, self._variable = labels, kind, variable

    def name(self, index: int) -> str:
        return str(self._pairs[index][0])

    def files(self, index: int) -> tuple[Path, ...]:
        image, mask = self._pairs[index]
        return Path(image), Path(mask)

    def read(self, index: int) -> Sample:
        image_path, mask_path = self.files(index)
        if mask_path.suffix.lower() in JPEG and not self._labels.tolerance:
            raise UserError(
                f"{mask_path}: JPEG blurs the classes' borders: save masks as PNG, or set "
                "data.tolerance to take the nearest class up to that distance"
            )
        image = read_image(image_path, self._kind)
        raw = read_mask(mask_path, self._labels.colours, self._variable)
        check_size(image, image_path, raw, mask_path)
        return Sample(image, self._labels.ids(raw, mask_path))


def dtype(kind: Kind) -> str:
    """The type of images of that kind, as a dataset states it."""
    return "uint8" if kind.depth == 8 else "float32"


def check_kind(kind: Kind) -> None:
    """UserError where no image has so many channels."""
    if kind.channels < 1:
        raise UserError(f"data.channels={kind.channels}: a number from 1 up")


def check_size(image: np.ndarray, image_path: Path, mask: np.ndarray, mask_path: Path) -> None:
    """UserError where a mask (H, W, ...) hasn't its image's size."""
    if image.shape[:2] != mask.shape[:2]:
        turned = image.shape[:2] == mask.shape[1::-1]
        raise UserError(
            f"{mask_path} is {mask.shape[1]}x{mask.shape[0]} and its image {image_path} "
            f"{image.shape[1]}x{image.shape[0]}: a mask must have its image's size"
            + (", as it is shown, turned by its EXIF orientation if it has one" if turned else "")
        )


# ---- finding files


def open_root(root: Path) -> Path:
    """The dataset's folder; UserError if it isn't there."""
    if not root.is_dir():
        here = "" if root.is_absolute() else ", as it is called from the folder you are in"
        raise UserError(
            f"no folder {root.absolute()}: set data.root to the dataset's folder{here} (for a run's, in "
            "its config.yaml)"
        )
    return root


def files(folder: Path, endings: set[str], suffix: str = "", see: str = "data.root") -> dict[str, Path]:
    """The files under a folder by their names in it, without ending and suffix; no hidden ones.

    UserError where the folder is missing (`see` names the options to look at), or where two
    files have one name.
    """
    if not folder.is_dir():
        raise UserError(f"no folder {folder}: see {see}")
    found: dict[str, Path] = {}
    for path in below(folder):
        name = path.relative_to(folder).with_suffix("").as_posix()
        if path.suffix.lower() not in endings or not name.endswith(suffix):
            continue
        name = name[: len(name) - len(suffix)]
        if name in found:
            raise UserError(f"{found[name]} and {path} have one name: which is it?")
        found[name] = path
    return found


def below(folder: Path, above: tuple[Path, ...] = ()) -> list[Path]:
    """The files in a folder and in those within, sorted, links followed; no hidden ones.

    above: the folders that this one is in, to which a link may lead back.
    """
    here, found = folder.resolve(), []
    with os.scandir(folder) as entries:
        for entry in entries if here not in above else ():
            if entry.name.startswith("."):
                continue
            path = Path(entry.path)
            found += below(path, (*above, here)) if entry.is_dir() else [path]
    return sorted(found)


def pair(
    images: Mapping[str, Path],
    masks: Mapping[str, Path],
    wanted: Optional[Sequence[str]] = None,
    source: Optional[Path] = None,
) -> Matches:
    """Images and masks of one name, sorted: all, or those `wanted` by the list `source`."""
    rule = (
        "the names must be equal up to the ending and the suffixes, as in images/a.jpg and masks/a.png"
    )
    problems = []
    chosen = set(images) | set(masks) if wanted is None else set(wanted)
    both = chosen & set(images) & set(masks)
    for name in sorted(chosen - both):
        if name in images:
            problems.append(f"{images[name]}: an image without a mask; {rule}")
        elif name in masks:
            problems.append(f"{masks[name]}: a mask without an image; {rule}")
        else:
            problems.append(f"{source}: names {name!r}, which has no image and no mask")
    return Matches({name: (images[name], masks[name]) for name in sorted(both)}, problems)


def lines(path: Path) -> list[str]:
    """The lines of a list file, blank ones too; UserError where it isn't text."""
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a text file in UTF-8, with a name on each line") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None


def names(path: Path) -> list[str]:
    """The lines of a list file that aren't blank; UserError for one that is there twice."""
    found = [line for line in lines(path) if line]
    twice = [line for line, count in Counter(found).items() if count > 1]
    if twice:
        raise UserError(f"{path} has {twice[0]!r} more than once: leave one of them")
    return found


def stem(name: str, endings: set[str]) -> str:
    """A file's name as a list has it, without its ending, if it has one."""
    path = Path(name)
    return (path.with_suffix("") if path.suffix.lower() in endings else path).as_posix()
