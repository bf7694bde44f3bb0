"""What the columns of a dataset's records are: channels, labels, time; told from the records."""

from __future__ import annotations

import csv
import re
from collections import Counter
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from segtrain.data.parallel import in_threads
from segtrain.errors import UserError
from segtrain.prediction import records

SOME = 8  # records that are looked at to tell columns apart
CLASSES = 64  # whole numbers of more different values are no labels
_LABELS = {
    *("label", "labels", "class", "classes", "target", "targets", "mask", "truth", "annotation", "y"),
    *("annotations", "state", "stage", "segment", "segmentation", "gt"),
}
_TIMES = {"time", "times", "t", "timestamp", "second", "seconds", "sec", "s", "ms", "milliseconds"}
_RATES = {"rate", "fs", "sfreq", "frequency", "hz"}

Columns = Dict[str, np.ndarray]


class Roles(NamedTuple):
    """The channels, the labels and samples per second, and how that was told."""

    signal: List[str]
    label: str
    rate: Optional[float]
    source: str  # of the rate
    left_out: str  # the other columns


def roles(paths: Sequence[Path]) -> Roles:
    """The roles of the columns that all records have; UserError where none is a channel, or labels."""
    chosen = [paths[i] for i in sorted({*np.linspace(0, len(paths) - 1, SOME).astype(int)})]
    samples, stated = zip(*map(_numbers, chosen))
    names = [name for name in samples[0] if all(_varies(columns.get(name)) for columns in samples)]
    values = {name: [columns[name] for columns in samples] for name in names}
    signal, labels, times = _told_apart(values)
    if not labels or not signal:
        what = f"labels: whole numbers, up to {CLASSES} different ones" if signal else "a signal"
        raise UserError(f"{chosen[0]}: no column holds {what}; there are {', '.join(names) or 'none'}")
    spare = [n for n in _named(chosen[0])[0] if n not in (*signal, labels[0])]
    left_out = f"not used: {', '.join(spare)}" if spare else "all columns but the labels"
    if stated[0]:
        return Roles(signal, labels[0], stated[0], "as the records state", left_out)
    rate = _rate(times[0], values[times[0]][0]) if times else None
    source = f", by {times[0]}" if rate else ": set it for times in ms"
    return Roles(signal, labels[0], rate, f"samples per second{source}", left_out)


def _told_apart(values: Dict[str, List[np.ndarray]]) -> Tuple[List[str], List[str], List[str]]:
    """Which of the columns, each with what it holds in some records, are channels, labels, times."""
    times = [n for n in values if _words(n) & _TIMES and all(map(_rises, values[n]))]
    counts = [n for n in values if n not in times and all(map(_counts, values[n]))]
    fitting = [n for n in values if n not in times + counts and _are_labels(values[n])]
    labels = [n for n in fitting if _words(n) & _LABELS] or fitting
    signal = [n for n in values if n not in {*times, *counts, *fitting}]
    return signal, labels, times


def label_counts(paths: Sequence[Path], label: str) -> Counter[Tuple[int, ...]]:
    """How many samples of all records have each label; UserError for labels that can't be ids."""

    def count(index: int) -> Counter[Tuple[int, ...]]:
        path = paths[index]
        try:
            column = records.read_columns(path, [label])[label]
        except records.RecordError as error:
            raise UserError(str(error)) from None
        values, counts = np.unique(column, return_counts=True)
        if not _are_ids(values):
            raise UserError(f"{path}: {label!r} holds {values[0]:g}; labels are whole numbers from 0 up")
        return Counter(dict(zip([(int(value),) for value in values], counts.tolist())))

    total: Counter[Tuple[int, ...]] = Counter()
    for found in in_threads(count, range(len(paths))):
        total.update(found)
    return total


def _numbers(path: Path) -> Tuple[Columns, Optional[float]]:
    """The columns of numbers, and the rate where the record states it."""
    columns: Columns = {}
    try:
        names, rate = _named(path)
    except (OSError, ValueError, EOFError, csv.Error, StopIteration) as error:
        raise UserError(f"{path}: not a record that can be read ({error})") from None
    for name in names:
        try:
            columns[name] = records.read_columns(path, [name])[name]
        except records.RecordError:  # text, or a single value
            continue
    return columns, rate


def _named(path: Path) -> Tuple[List[str], Optional[float]]:
    if path.suffix.lower() == ".csv":
        with path.open(encoding="utf-8-sig", newline="") as file:
            return [name.strip() for name in next(csv.reader(file))], None
    file = np.load(path, allow_pickle=False)
    names = list(getattr(file, "files", None) or getattr(file, "dtype", np.dtype(int)).names or [])
    stated = [n for n in names if _words(n) & _RATES and np.size(file[n]) == 1]
    return names, float(np.ravel(file[stated[0]])[0]) if stated else None


def _words(name: str) -> set:
    return {*re.split(r"[^a-z]+", name.lower())}


def _varies(column: Optional[np.ndarray]) -> bool:
    """Whether it is there, and no single value throughout, as a person's number would be."""
    return column is not None and bool((column != column[0]).any())


def _rises(column: np.ndarray) -> bool:
    return column.ndim == 1 and bool((np.diff(column) > 0).all())


def _counts(column: np.ndarray) -> bool:
    """Whether it is 0, 1, 2, ... from anywhere on: a number for each sample."""
    return column.ndim == 1 and len(column) > 1 and bool((np.diff(column) == 1).all())


def _are_labels(columns: Sequence[np.ndarray]) -> bool:
    if any(column.ndim != 1 for column in columns):
        return False
    values = np.unique(np.concatenate(columns))
    return 2 <= len(values) <= CLASSES and _are_ids(values)


def _are_ids(values: np.ndarray) -> bool:
    return bool(((values >= 0) & (values < 65536) & (values == np.floor(values))).all())


def _rate(name: str, times: np.ndarray) -> Optional[float]:
    """Samples per second from even times in seconds, or in milliseconds if the name says so."""
    steps = np.diff(times)
    step = float(np.median(steps)) if len(steps) else 0.0
    if not step or np.abs(steps - step).max() > 0.1 * step:
        return None
    per_second = 1000 if _words(name) & {"ms", "milliseconds"} else 1
    return float(f"{per_second / step:.5g}")
