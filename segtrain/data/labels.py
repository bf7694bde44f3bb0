"""From what masks hold, raw ids or colours, to class ids; what is no class is an error."""

from __future__ import annotations

from pathlib import Path
from typing import Dict, List, Mapping, Optional, Tuple, Union

import cv2
import numpy as np

from segtrain.data.dataset import describe
from segtrain.errors import UserError, nearest

IGNORE = "ignore"  # the name in a palette of the colour that counts nowhere
_UNKNOWN = -1


class RawIds:
    """Masks of ids: class ids as they are, others by `label_map`.

    tolerance: a value that is no id counts as the nearest one, at most so far away; fixed: the ids
    are a published format's, which has no options to change them.
    """

    colours = False

    def __init__(
        self,
        classes: List[str],
        ignore: Optional[int] = 255,
        label_map: Mapping[int, int] = {},
        tolerance: int = 0,
        fixed: bool = False,
    ):
        check(classes, ignore)
        for raw, target in label_map.items():
            if not 0 <= raw < 65536 or not (0 <= target < len(classes) or target == ignore):
                raise UserError(f"data.label_map: {raw}: {target} leads to no class and not to ignore")
        self.classes, self.ignore, self.tolerance = classes, ignore, tolerance
        self._fixed, self._table = fixed, self._filled(label_map)
        of_byte = self._table[:256]
        self._of_byte, self._strange = of_byte.astype(np.uint8), (of_byte == _UNKNOWN).astype(np.uint8)
        self._same = int(np.append(of_byte == np.arange(256), False).argmin())  # values below it stay

    def _filled(self, label_map: Mapping[int, int]) -> np.ndarray:
        """Raw id -> class id, or -1. The last entry stands for -1 itself."""
        table = np.full(65537, _UNKNOWN, np.int16)
        table[: len(self.classes)] = np.arange(len(self.classes))
        if self.ignore is not None:
            table[self.ignore] = self.ignore
        for raw, target in label_map.items():
            table[raw] = target
        known, values = np.flatnonzero(table != _UNKNOWN), np.arange(65536)
        place = np.searchsorted((known[:-1] + known[1:]) / 2, values)
        close = np.abs(known[place] - values) <= self.tolerance
        table[:-1][close] = table[known[place]][close]
        return table

    def ids(self, raw: np.ndarray, path: Path) -> np.ndarray:
        """The class ids (H, W) uint8 of raw ids (H, W); UserError tells of those that are no class."""
        if raw.dtype == np.uint8 and raw.max(initial=0) < self._same:
            return raw
        if raw.dtype == np.uint8 and not cv2.countNonZero(cv2.LUT(raw, self._strange)):
            return cv2.LUT(raw, self._of_byte)  # as below, in a fifth of the time
        ids = self._table[np.clip(raw, -1, len(self._table) - 1)]
        if ids.min() == _UNKNOWN:
            wrong, share = np.unique(raw[ids == _UNKNOWN]), 100 * float((ids == _UNKNOWN).mean())
            holds = f"{path} holds {describe([], wrong[:8])} ({share:.2g}% of its pixels)"
            if self._fixed:
                raise UserError(
                    f"{holds}, which this format has no class for: mend the mask, or read such files "
                    "with data.name=list, which takes data.label_map"
                )
            mapped = ", ".join(
                [*(f"{i}: CLASS" for i in wrong[:8]), *(["..."] if len(wrong) > 8 else [])]
            )
            void = f", or data.ignore={wrong[0]}" if len(wrong) == 1 else ""
            raise UserError(
                f"{holds}, and there are {len(self.classes)} classes, 0 to {len(self.classes) - 1}: "
                f"name more of them in data.classes, or set data.label_map={{{mapped}}}{void}"
            )
        return ids.astype(np.uint8)


class Colours:
    """Masks of RGB colours, one for each class, and perhaps one named ``ignore``.

    tolerance: a colour that is not in the palette counts as the nearest one, where no channel
    differs by more.
    """

    colours = True

    def __init__(
        self,
        classes: List[str],
        palette: Mapping[str, Tuple[int, int, int]],
        ignore: Optional[int] = 255,
        tolerance: int = 0,
    ):
        check(classes, ignore)
        _check_palette(classes, palette, ignore)
        self.classes, self.ignore, self.tolerance = classes, ignore, tolerance
        order = sorted(palette, key=lambda name: palette[name])
        self._colours = np.array([palette[name] for name in order], np.int32)
        self._keys = _packed(self._colours)
        numbers = {**dict(zip(classes, range(len(classes)))), IGNORE: ignore}
        self._ids = np.array([numbers[name] for name in order], np.uint8)

    def ids(self, raw: np.ndarray, path: Path) -> np.ndarray:
        """The class ids (H, W) uint8 of RGB colours (H, W, 3); UserError counts the stray pixels."""
        keys = _packed(raw)
        place = np.searchsorted(self._keys, keys).clip(max=len(self._keys) - 1)
        stray = self._keys[place] != keys
        if stray.any():
            place[stray] = self._nearest(raw[stray], path, stray)
        return self._ids[place]

    def _nearest(self, pixels: np.ndarray, path: Path, stray: np.ndarray) -> np.ndarray:
        """The places in the palette of stray pixels (N, 3)."""
        _, first, inverse = np.unique(_packed(pixels), return_index=True, return_inverse=True)
        colours = pixels[first].astype(np.int32)
        distances = np.stack([np.abs(colours - c).max(axis=1) for c in self._colours], axis=1)
        far = distances.min(axis=1)[inverse] > self.tolerance
        if far.any():
            like = np.bincount(inverse[far]).argmax()
            raise UserError(
                f"{path}: {int(far.sum())} of {stray.size} pixels have a colour that is not in "
                f"data.palette, most of them like {colours[like].tolist()}: add it, or set "
                f"data.tolerance={int(distances.min(axis=1).max())} to take the nearest colour"
            )
        return distances.argmin(axis=1)[inverse]


Labels = Union[RawIds, Colours]


def labels(
    classes: List[str],
    ignore: Optional[int],
    label_map: Dict[int, int],
    palette: Dict[str, Tuple[int, int, int]],
    tolerance: int,
) -> Labels:
    """What reads masks of ids, or of colours where there is a palette."""
    if tolerance < 0:
        raise UserError(f"data.tolerance={tolerance}: a distance from 0 up")
    if not palette:
        return RawIds(classes, ignore, label_map, tolerance)
    if label_map:
        raise UserError("data.palette is for masks of colours and data.label_map for ids: set one")
    return Colours(classes, palette, ignore, tolerance)


def check(classes: List[str], ignore: Optional[int]) -> None:
    """UserError where the names of the classes, or the id to ignore, can't be."""
    if not 2 <= len(classes) <= 255:
        raise UserError(f"data.classes: {len(classes)} names; there must be 2 to 255")
    if len(set(classes)) != len(classes):
        raise UserError("data.classes: a name is there twice")
    if ignore is not None and not 0 <= ignore <= 255:
        raise UserError(f"data.ignore={ignore}: an id from 0 to 255, or null")


def _check_palette(
    classes: List[str], palette: Mapping[str, Tuple[int, int, int]], ignore: Optional[int]
) -> None:
    names = {*classes, *([] if ignore is None else [IGNORE])}
    for name, colour in palette.items():
        if name not in names:
            raise UserError(f"data.palette: {name!r} is no class; {nearest(name, names)}")
        if not all(0 <= value <= 255 for value in colour):
            raise UserError(f"data.palette.{name}={list(colour)}: red, green, blue from 0 to 255")
        same = [other for other in palette if other != name and palette[other] == colour]
        if same:
            raise UserError(f"data.palette: {name} and {same[0]} have one colour, {list(colour)}")
    lacking = [name for name in classes if name not in palette]
    if lacking:
        raise UserError(f"data.palette has no colour for {', '.join(lacking)}")


def _packed(colours: np.ndarray) -> np.ndarray:
    """Colours (..., 3) as one number each, in the order of their tuples."""
    return colours.astype(np.int32) @ np.array([65536, 256, 1], np.int32)
