"""Pairs as list files name them: two columns, image and mask, or a CSV file with a header."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Dict, Iterator, List, Literal, Optional, Tuple

from segtrain.data.labels import labels
from segtrain.data.pairs import Matches, Pairs, lines, open_root
from segtrain.errors import UserError, nearest
from segtrain.infer import Kind


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
    the columns of a CSV file. The other options are those of `folder`.
    """
    meaning = labels(classes, ignore, label_map, palette, tolerance)
    if split not in files:
        raise UserError(f"no split {split!r} in data.files; {nearest(split, files)}")
    source = open_root(root) / files[split]
    is_table = source.suffix.lower() == ".csv"
    rows = _table(source, image, mask) if is_table else _columns(source)
    matches = Matches(_pairs(root, source, rows))
    return Pairs(matches, meaning, Kind(channels, depth), variable)


def _pairs(
    root: Path, source: Path, rows: Iterator[Tuple[int, str, str]]
) -> Dict[str, Tuple[Path, Path]]:
    pairs: Dict[str, Tuple[Path, Path]] = {}
    for number, *names in rows:
        paths = [root / name for name in names]
        for path in paths:
            if not path.is_file():
                raise UserError(f"{source}, line {number}: no file {path}")
        if names[0] in pairs:
            raise UserError(f"{source}, line {number}: {names[0]} is there a second time")
        pairs[names[0]] = paths[0], paths[1]
    return pairs


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
    rows = csv.DictReader(lines(source))
    known = rows.fieldnames or []
    for option, column in (("image", image), ("mask", mask)):
        if column not in known:
            raise UserError(
                f"{source} has no column {column!r}: set data.{option}; {nearest(column, known)}"
            )
    for row in rows:
        if not row[image] or not row[mask]:
            raise UserError(f"{source}, line {rows.line_num}: no {mask if row[image] else image}")
        yield rows.line_num, row[image].strip(), row[mask].strip()
