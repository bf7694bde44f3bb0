"""What the values or colours in a dataset's masks mean: classes, label map, palette, ignore."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from segtrain.data.files import JPEG, read_mask
from segtrain.data.parallel import in_threads
from segtrain.errors import UserError

MOST = 64  # classes that are told from masks alone
SOME = 20  # masks that tell whether all are of colours
NAME_FILES = ("class_names.txt", "classes.txt", "labels.txt", "label_colors.txt", "names.txt")

_RINGING = 16  # that JPEG leaves about an edge in what was 0 or 255
_PLACES = np.array([65536, 256, 1])
Value = Tuple[int, ...]  # (id,) or (red, green, blue)


class Legend(NamedTuple):
    """The options of the data section, each with the reason for it."""

    options: Dict[str, Any]
    reasons: Dict[str, str]


def legend(masks: Sequence[Path], root: Path) -> Legend:
    """The legend of masks from their own pixels, and from a file of names in `root` if there is one.

    UserError where they hold more different values than classes can be.
    """
    colours = any(map(_are_colours, masks[:: -(-len(masks) // SOME)]))
    pixels = _count(masks, colours)
    named = _names(root)
    jpeg = any(mask.suffix.lower() in JPEG for mask in masks)
    if not colours and (_is_jpeg_binary(pixels) if jpeg else _is_blurred_binary(pixels)):
        return _blurred(pixels)
    if len(pixels) > MOST:
        kind = "colours" if colours else "values"
        raise UserError(
            f"{masks[0].parent}: the masks hold {len(pixels)} different {kind}, more than classes "
            "can be: were they saved as JPEG or resized with smoothing? write the config by hand, "
            "with data.tolerance"
        )
    return _colours(pixels, named) if colours else _ids(pixels, named)


def legend_of(counts: Counter[Value], root: Path) -> Legend:
    """The legend of ids that were counted, with the names in a file of `root` if there is one."""
    return _ids(counts, _names(root))


def _are_colours(mask: Path) -> bool:
    try:
        with Image.open(mask) as file:
            mode, pixels = file.mode, np.asarray(file)
    except (OSError, UnidentifiedImageError):
        return False
    return mode in ("RGB", "RGBA") and bool((pixels[..., :3] != pixels[..., :1]).any())


def _count(masks: Sequence[Path], colours: bool) -> Counter[Value]:
    problems: List[UserError] = []

    def count(path: Path) -> Counter[Value]:
        try:
            raw = read_mask(path, colours)
        except UserError as error:
            problems.append(error)
            return Counter()
        packed = raw.astype(np.int64) @ _PLACES if colours else raw
        values, counts = np.unique(packed, return_counts=True)
        rows = (values[:, None] // _PLACES % 256 if colours else values[:, None]).tolist()
        return Counter(dict(zip(map(tuple, rows), counts.tolist())))

    total: Counter[Value] = Counter()
    for found in in_threads(lambda index: count(masks[index]), range(len(masks))):
        total.update(found)
    if not total:
        raise problems[0]
    return total


def _ids(pixels: Counter[Value], named: Dict[Optional[Value], List[str]]) -> Legend:
    values = sorted(value for (value,) in pixels)
    ignore = 255 if 255 in values and len(values) > 2 and not _are_levels(values) else None
    ids = [value for value in values if value != ignore]
    reasons = {"ignore": "or the id of a class that is void"}
    if ignore:
        share = 100 * pixels[(255,)] / sum(pixels.values())
        reasons["ignore"] = f"255 is taken for no class ({share:.2g} % of the pixels): null if it is one"
    dense = len(ids) > 0.7 * (max(ids) + 1)  # a rare class may be in none of the masks
    plain = dense or (max(ids) < MOST and len(named.get(None, [])) > max(ids))
    count = max(ids) + 1 if plain else len(ids)
    names, reasons["classes"] = _called(count, named.get(None, []))
    options: Dict[str, Any] = {"classes": names, "ignore": ignore}
    if not plain:
        options["label_map"] = {value: i for i, value in enumerate(ids) if value != i}
        reasons["label_map"] = f"the masks hold {', '.join(map(str, ids[:8]))}"
    return Legend(options, reasons)


def _are_levels(values: Sequence[int]) -> bool:
    """Whether the values lie at even steps from 0 to 255, as classes drawn in shades of grey do."""
    even = np.linspace(0, 255, len(values))
    return len(values) < 32 and bool((np.abs(np.array(values) - even) <= 1).all())


def _colours(pixels: Counter[Value], named: Dict[Optional[Value], List[str]]) -> Legend:
    colours = [colour for colour, _ in pixels.most_common()]
    names = [(named.get(colour) or [f"colour {'-'.join(map(str, colour))}"])[0] for colour in colours]
    options = {"classes": names, "ignore": None, "palette": dict(zip(names, map(list, colours)))}
    known = any(colour in named for colour in colours)
    source = "from the file of colours" if known else "rename them: the most frequent colour first"
    return Legend(
        options, {"classes": source, "palette": "the colours that the masks hold", "ignore": "none"}
    )


def _is_blurred_binary(pixels: Counter[Value]) -> bool:
    ends = pixels[(0,)] + pixels[(255,)]
    return len(pixels) > 32 and pixels[(255,)] > 0 and ends > 0.7 * sum(pixels.values())


def _is_jpeg_binary(pixels: Counter[Value]) -> bool:
    """As `_is_blurred_binary`, of few masks too; JPEG moves the ends themselves a little."""
    ends = sum(count for (value,), count in pixels.items() if not _RINGING < value < 255 - _RINGING)
    white = any(value >= 255 - _RINGING for (value,) in pixels)
    return white and ends > 0.7 * sum(pixels.values())


def _blurred(pixels: Counter[Value]) -> Legend:
    between = sum(pixels.values()) - pixels[(0,)] - pixels[(255,)]
    share = 100 * between / sum(pixels.values())
    options = {
        "classes": ["background", "object"],
        "ignore": None,
        "label_map": {255: 1},
        "tolerance": 127,
    }
    reasons = {
        "classes": "rename them",
        "label_map": "the masks hold 0 and 255",
        "tolerance": f"{share:.2g} % of the pixels lie between, blurred: each goes to the nearer end",
    }
    return Legend(options, reasons)


def _called(count: int, names: List[str]) -> Tuple[List[str], str]:
    """Names for that many classes, and where they come from."""
    if len(names) >= count:
        return names[: max(count, len(names))], "from the file of names"
    if count <= 2:
        return ["background", "object"][: max(2, count)], "rename them"
    return ["background", *[f"class {i}" for i in range(1, count)]], "rename them"


def _names(root: Path) -> Dict[Optional[Value], List[str]]:
    """Names of a file in `root`: under None in the order of ids, or by colour, 'R G B name'."""
    found: Dict[Optional[Value], List[str]] = {}
    for path in (root / name for name in NAME_FILES):
        if not path.is_file():
            continue
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            words = line.split()
            if len(words) >= 4 and all(word.isdigit() for word in words[:3]):
                found[tuple(map(int, words[:3]))] = [" ".join(words[3:])]
            elif words and not line.lstrip().startswith("__"):
                found.setdefault(None, []).append(line.strip())
    return found
