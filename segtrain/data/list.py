"""Pairs as list files name them: two columns, image and mask, or a CSV file with a header."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Dict, Iterator, List, Literal, Optional, Set, Tuple

from segtrain.data.labels import labels
from segtrain.data.pairs import Matches, Pairs, lines, open_root
from segtrain.errors import UserError, nearest
from segtrain.prediction.infer import Kind


def build(
    split: str,
    *,
    files: Dict[str, Path],
    classes: List[str],
    root: Path = Path("."),
    image: str = "image",
    mask: str = "mask",
    ignore: Optional[int] = 255,
    label_map: Dict[int, int] = {},
    palette: Dict[str, Tuple[int, int, int]] = {},
    tolerance: int = 0,
    variable: Optional[str] = None,
    channels: int = 3,
    depth: Literal[8, 16, 32] = 8,
) -> Pairs:
    """The named split.

    files: the list of each split, relative to `root` as the paths in it are; it is a CSV file with
    a header, or has an image and a mask on each line, with a tab or blanks between; image, mask:
    the columns of a CSV file; root, classes, ignore, label_map, palette, tolerance, variable,
    channels, depth: as in `folder`.
    """
    meaning = labels(classes, ignore, label_map, palette, tolerance)
    if split not in files:
        raise UserError(f"no split {split!r} in data.files; {nearest(split, files)}")
    source = open_root(root) / files[split]
    is_table = source.suffix.lower() == ".csv"
    rows = _table(source, image, mask) if is_table else _columns(source)
    matches = Matches(_pairs(root, source, rows))
    return Pairs(matches, meaning, Kind(channels, depth), variable)


def _pairs(root: Path, source: Path, rows: Iterator[Tuple[int, str, str]]) -> Dict[str, Tuple[str, str]]:
    pairs: Dict[str, Tuple[str, str]] = {}
    home = str(root)
    held: Dict[str, Set[str]] = {}  # a listing per folder: a tenth of the time of a look per file
    for number, image, mask in rows:
        paths = _under(home, image), _under(home, mask)
        for path in paths:
            folder, _, name = path.rpartition("/")
            if folder not in held:
                held[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
            if name not in held[folder]:
                raise UserError(
                    f"{source}, line {number}: no file {path}: bring it back, or take the line out"
                )
        if image in pairs:
            raise UserError(f"{source}, line {number}: {image} is there a second time")
        pairs[image] = paths
    return pairs


def _under(home: str, path: str) -> str:
    """os.path.join, at a third of its time."""
    return path if path.startswith("/") else f"{home}/{path}"


def _columns(source: Path) -> Iterator[Tuple[int, str, str]]:
    for number, line in enumerate(lines(source), 1):
        if not line:
            continue
        columns = [c.strip() for c in line.split("\t")] if "\t" in line else line.split()
        if len(columns) != 2:
            raise UserError(
                f"{source}, line {number}: {len(columns)} columns; there must be two, image and mask "
                "(with a tab between them, where names have blanks)"
            )
        yield number, columns[0], columns[1]


def _table(source: Path, image: str, mask: str) -> Iterator[Tuple[int, str, str]]:
    rows = csv.reader(lines(source))
    known = next(rows, [])
    for option, column in (("image", image), ("mask", mask)):
        if column not in known:
            raise UserError(
                f"{source} has no column {column!r}: set data.{option}; {nearest(column, known)}"
            )
    places = known.index(image), known.index(mask)
    for row in rows:
        if not row:
            continue
        found = [row[place].strip() if place < len(row) else "" for place in places]
        if not all(found):
            raise UserError(f"{source}, line {rows.line_num}: no {mask if found[0] else image}")
        yield rows.line_num, found[0], found[1]
