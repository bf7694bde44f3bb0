"""Signals in folders: a record per CSV, npz or npy file, its channels and labels by name.

A folder per split, ``ROOT/train`` and ``ROOT/val``; records may differ in length.
"""

from __future__ import annotations

from pathlib import Path
from typing import Dict, List, Literal, NamedTuple, Optional

import numpy as np
from pydantic import PositiveFloat

from segtrain import records
from segtrain.data.dataset import Sample
from segtrain.data.folder import _check as check_ids
from segtrain.data.folder import _files as list_files
from segtrain.data.folder import _table as id_table
from segtrain.errors import UserError


class Form(NamedTuple):
    """What a record holds, and how its labels become class ids."""

    signal: List[str]
    label: str
    standardise: bool
    rate: Optional[float]
    background: Optional[int]


class Signals:
    """Records of signals; `rate` in samples per second, `background` the id between events."""

    dim = 1
    dtype = "float32"

    def __init__(
        self, files: Dict[str, Path], form: Form, classes: List[str], ignore: int, table: np.ndarray
    ):
        self.classes, self.ignore = classes, ignore
        self.ids = list(files)
        self.rate, self.background = form.rate, form.background
        self._files, self._form, self._table = list(files.values()), form, table

    def name(self, index: int) -> str:
        return str(self._files[index])

    def read(self, index: int) -> Sample:
        path, form = self._files[index], self._form
        try:
            columns = records.read_columns(path, [*form.signal, form.label])
            records.check_lengths(columns, path)
            raw = columns.pop(form.label)
            signal = records.to_signal(columns, path, form.standardise)
            return Sample(signal, self._ids(raw, path))
        except records.RecordError as error:
            raise UserError(str(error)) from None

    def _ids(self, raw: np.ndarray, path: Path) -> np.ndarray:
        """Labels (L,) of any type of number as class ids; UserError names the first wrong one."""
        if raw.ndim != 1:
            raise UserError(f"{path}: {self._form.label!r} is {raw.shape}, and labels are (L,)")
        inside = np.clip(np.nan_to_num(raw, nan=-1), -1, len(self._table) - 1).astype(np.int64)
        ids = np.where(inside == raw, self._table[inside], -1)
        wrong = np.flatnonzero(ids < 0)
        if len(wrong):
            held, share = f"{raw[wrong[0]]:g}", 100 * len(wrong) / len(ids)
            raise UserError(
                f"{path}: {self._form.label!r} is {held} in {records.place(path, wrong[0])} "
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
    none; label_map: raw id to class id or `ignore`, others stay; splits: the folder of a split,
    where it is not called like the split.
    """
    check_ids(classes, ignore, label_map)
    _check(classes, signal, label, background)
    home = root / splits.get(split, split)
    if not root.is_dir():
        raise UserError(f"no folder {root.absolute()}: set data.root to the dataset's folder")
    if not home.is_dir():
        raise UserError(f"no split {split!r}: there is no folder {home}; see data.splits")
    form = Form(signal, label, standardise == "record", rate, background)
    files = list_files(home, records.ENDINGS)
    table = id_table(len(classes), ignore, label_map)
    return Signals(files, form, classes, 255 if ignore is None else ignore, table)


def _check(classes: List[str], signal: List[str], label: str, background: Optional[int]) -> None:
    if not signal or len(set(signal)) != len(signal):
        raise UserError(f"data.signal={signal}: name one or more different columns")
    if label in signal:
        raise UserError(f"data.label={label}: it is a channel of data.signal too")
    if background is not None and not 0 <= background < len(classes):
        raise UserError(f"data.background={background}: a class from 0 to {len(classes) - 1}, or null")
