"""Signals in folders: a record per CSV, npz or npy file, its channels and labels by name.

A folder per split, ``ROOT/train`` and ``ROOT/val``, or a list file, ``ROOT/train.txt``, with a record's
path from the root on each line; records may differ in length.
"""

from __future__ import annotations

from pathlib import Path
from typing import Dict, List, Literal, NamedTuple, Optional, Tuple

import numpy as np
from pydantic import PositiveFloat

from segtrain import plugins
from segtrain.config import Data
from segtrain.data.dataset import Sample
from segtrain.data.pairs import below, names, open_root
from segtrain.errors import UserError
from segtrain.prediction import records


class Meaning(NamedTuple):
    """What a record's labels mean."""

    classes: List[str]
    ignore: Optional[int]
    label_map: Dict[int, int]
    background: Optional[int]


class Signals:
    """Records of signals; `rate` in samples per second, `background` the id between events."""

    dim = 1
    dtype = "float32"
    problems: List[str] = []

    def __init__(self, home: Path, files: List[Path], form: records.Form, label: str, meaning: Meaning):
        self.classes, self.rate = meaning.classes, form.rate
        self.ignore = 255 if meaning.ignore is None else meaning.ignore
        self.background = meaning.background
        self._files = files
        self.ids = [f.relative_to(home).as_posix() for f in self._files]
        self._form, self._label, self._table = form, label, _table(meaning)

    def name(self, index: int) -> str:
        return str(self._files[index])

    def files(self, index: int) -> tuple[Path, ...]:
        return (self._files[index],)

    def read(self, index: int) -> Sample:
        path, label = self._files[index], self._label
        try:
            columns = records.read_columns(path, [*self._form.signal, label])
            records.check_lengths(columns, path)
            raw = columns.pop(label)
            return Sample(records.to_signal(columns, path, self._form), self._ids(raw, path))
        except records.RecordError as error:
            raise UserError(str(error)) from None

    def _ids(self, raw: np.ndarray, path: Path) -> np.ndarray:
        """Labels (L,) of any type of number as class ids; UserError names the first wrong one."""
        if raw.ndim != 1:
            raise UserError(f"{path}: {self._label!r} is {raw.shape}, and labels are (L,)")
        inside = np.clip(np.nan_to_num(raw, nan=-1), -1, len(self._table) - 1).astype(np.int64)
        ids = np.where(inside == raw, self._table[inside], -1)
        wrong = np.flatnonzero(ids < 0)
        if len(wrong):
            held, share = f"{raw[wrong[0]]:g}", 100 * len(wrong) / len(ids)
            raise UserError(
                f"{path}: {self._label!r} is {held} in {records.place(path, wrong[0])} "
                f"({share:.2g}% of the labels are no class), and there are {len(self.classes)} "
                f"classes, 0 to {len(self.classes) - 1}: set data.label_map={{{held}: CLASS}}, "
                f"or data.ignore={held}"
            )
        return ids.astype(np.uint8)


def build(
    split: str,
    *,
    root: Path,
    classes: List[str],
    signal: List[str],
    label: str,
    rate: Optional[PositiveFloat] = None,
    background: Optional[int] = 0,
    standardise: Literal["record", "none"] = "record",
    ignore: Optional[int] = 255,
    label_map: Dict[int, int] = {},
    splits: Dict[str, str] = {},
) -> Signals:
    """The named split.

    root: the dataset's folder; classes: their names, in the order of their ids; signal: the
    channels' columns or arrays; label: the labels'; rate: samples per second, for times in ms;
    background: the class between events, which has no onsets of its own, null if there is none;
    standardise: 'record' gives each channel of a record mean 0 and standard deviation 1, 'none'
    leaves it to data.mean and data.std; ignore: the id that counts nowhere, null if there is
    none; label_map: raw id to class id or `ignore`, others stay; splits: the folder or list file
    of a split, where it is not called like the split.
    """
    if not signal or len(set(signal)) != len(signal):
        raise UserError(f"data.signal={signal}: name one or more different columns")
    if label in signal:
        raise UserError(f"data.label={label}: it is a channel of data.signal too")
    meaning = Meaning(classes, ignore, label_map, background)
    _check(meaning)
    home, files = _split(open_root(root), split, splits.get(split, split))
    form = records.Form(signal, standardise == "record", rate)
    return Signals(home, files, form, label, meaning)


def _split(root: Path, split: str, name: str) -> Tuple[Path, List[Path]]:
    """The folder that the split's records are named from, and the records."""
    home, source = root / name, root / (name if name.endswith(".txt") else f"{name}.txt")
    if home.is_dir():
        return home, [f for f in below(home) if f.suffix.lower() in records.ENDINGS]
    if not source.is_file():
        raise UserError(
            f"no split {split!r}: there is no folder {home} and no list {source}; see data.splits"
        )
    files = [root / line for line in names(source)]
    lacking = next((file for file in files if not file.is_file()), None)
    if lacking:
        raise UserError(f"{source}: no file {lacking}")
    return root, files


def form_of(data: Data) -> records.Form:
    """What the records of a config's dataset hold; UserError for wrong options."""
    options = plugins.options(build, data.options, "data", also=type(data).model_fields, name=data.name)
    return records.Form(options["signal"], options["standardise"] == "record", options["rate"])


def _check(meaning: Meaning) -> None:
    """UserError where the options of the labels can't be meant so."""
    classes, ignore, label_map, background = meaning
    if not 2 <= len(classes) <= 255 or len(set(classes)) != len(classes):
        raise UserError(f"data.classes={classes}: 2 to 255 names, each once")
    if ignore is not None and not 0 <= ignore <= 255:
        raise UserError(f"data.ignore={ignore}: an id from 0 to 255, or null")
    for raw, target in label_map.items():
        if not 0 <= raw < 65536 or not (0 <= target < len(classes) or target == ignore):
            raise UserError(f"data.label_map: {raw}: {target} leads to no class and not to ignore")
    if background is not None and not 0 <= background < len(classes):
        raise UserError(f"data.background={background}: a class from 0 to {len(classes) - 1}, or null")


def _table(meaning: Meaning) -> np.ndarray:
    """Raw id -> class id; -1 for an id that is no class. The last entry stands for -1 itself."""
    table = np.full(65537, -1, np.int16)
    table[: len(meaning.classes)] = np.arange(len(meaning.classes))
    if meaning.ignore is not None:
        table[meaning.ignore] = meaning.ignore
    for raw, target in meaning.label_map.items():
        table[raw] = target
    return table
