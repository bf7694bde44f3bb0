"""Records of signals as files: CSV, npz or npy to columns by name, and class ids to CSV or a plot.

It needs numpy alone, and matplotlib to plot.
"""

from __future__ import annotations

import csv
import io
import zipfile
from pathlib import Path
from typing import NamedTuple, Sequence

import numpy as np

ENDINGS = {".csv", ".npz", ".npy"}


class RecordError(ValueError):
    """A file that can't be used; its text says which and why."""


class Form(NamedTuple):
    """What a record holds: its channels' names, and `rate` in samples per second if it is known.

    standardise: each channel is to have mean 0 and standard deviation 1 over the record.
    """

    signal: Sequence[str]
    standardise: bool
    rate: float | None


def read_signal(path: Path, form: Form) -> np.ndarray:
    """The channels of a record as (L, C) float32.

    RecordError where one isn't there, differs in length, or isn't a finite number throughout.
    """
    return to_signal(read_columns(path, form.signal), path, form)


def to_signal(columns: dict[str, np.ndarray], path: Path, form: Form) -> np.ndarray:
    """Columns (L,), or (L, C) that hold several channels, side by side as (L, C) float32."""
    for name, column in columns.items():
        rows = np.argwhere(~np.isfinite(column))
        if len(rows):
            raise RecordError(
                f"{path}: {name!r} is {column[tuple(rows[0])]} in {place(path, rows[0][0])}"
            )
    check_lengths(columns, path)
    signal = np.column_stack([column.astype(np.float64) for column in columns.values()])
    if form.standardise:
        signal = (signal - signal.mean(axis=0)) / np.maximum(signal.std(axis=0), 1e-12)
    return signal.astype(np.float32)


def read_columns(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The named columns of a record, numbers (L,), or (L, k) of an .npz.

    RecordError where one isn't there, is empty or holds text.
    """
    if path.suffix.lower() not in ENDINGS:
        raise RecordError(f"{path}: not a record ({', '.join(sorted(ENDINGS))})")
    try:
        columns = _csv(path, names) if path.suffix.lower() == ".csv" else _arrays(path, names)
    except UnicodeDecodeError:
        raise RecordError(f"{path}: not a text file in UTF-8") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, csv.Error) as error:
        raise RecordError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    for name, column in columns.items():
        if not column.ndim or not len(column):
            raise RecordError(f"{path}: {name!r} is empty")
        if column.dtype.kind not in "fiub" or column.ndim > 2:
            raise RecordError(f"{path}: {name!r} is {column.dtype} {column.shape}, not numbers (L,)")
    return columns


def check_lengths(columns: dict[str, np.ndarray], path: Path) -> None:
    """RecordError where the columns differ in length."""
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise RecordError(f"{path}: the columns differ in length: {lengths}")


def _csv(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        header, *rows = [*csv.reader(file, strict=True)] or [[]]
    places = [_find(path, name, [cell.strip() for cell in header]) for name in names]
    rows = [row for row in rows if row]  # empty lines, as at the end of a file
    return {name: _numbers(path, name, rows, at) for name, at in zip(names, places)}


def _find(path: Path, name: str, header: Sequence[str]) -> int:
    if name not in header:
        raise RecordError(f"{path}: no column {name!r}; there are {', '.join(header)[:200]}")
    return header.index(name)


def _numbers(path: Path, name: str, rows: list[list[str]], at: int) -> np.ndarray:
    try:
        return np.array([row[at] for row in rows]).astype(np.float64)
    except (ValueError, IndexError):
        for number, row in enumerate(rows):
            cell = row[at] if at < len(row) else ""
            try:
                float(cell)
            except ValueError:
                where = place(path, number)
                raise RecordError(f"{path}: {name!r} is {cell!r} in {where}, not a number") from None
        raise


def _arrays(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    file = np.load(path, allow_pickle=False)
    known = getattr(file, "files", None) or getattr(file, "dtype", np.dtype(int)).names or ()
    for name in names:
        if name not in known:
            raise RecordError(f"{path}: no array {name!r}; there are {', '.join(known) or 'no names'}")
    return {name: np.asarray(file[name]) for name in names}


def place(path: Path, index: int) -> str:
    """A sample's place as an editor shows it: the line after a CSV's header, or the index."""
    return f"line {index + 2}" if path.suffix.lower() == ".csv" else f"sample {index}"


def table(ids: np.ndarray, classes: Sequence[str], rate: float | None) -> bytes:
    """Class ids (L,) as CSV: sample, time_s where the rate is known, class, name."""
    times = [] if rate is None else [np.char.mod("%.6g", np.arange(len(ids)) / rate)]
    columns = [np.arange(len(ids)), *times, ids, np.array(classes)[ids]]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["sample", *["time_s" for _ in times], "class", "name"])
    writer.writerows(zip(*columns))
    return text.getvalue().encode()


def plot(
    signal: np.ndarray,
    ids: np.ndarray,
    classes: Sequence[str],
    colours: np.ndarray,
    rate: float | None,
) -> bytes:
    """The signal (L, C) over the spans of its classes in their colours (256, 3), as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    times = np.arange(len(ids) + 1) / (rate or 1)
    figure = Figure(figsize=(16, 2 + 2 * signal.shape[1]), layout="constrained")
    starts = np.flatnonzero(np.diff(ids, prepend=-1, append=-1))
    for channel in range(signal.shape[1]):
        axes = figure.add_subplot(signal.shape[1], 1, channel + 1)
        for start, stop in zip(starts, starts[1:]):
            if ids[start]:  # the first class has no colour: Pascal VOC's is black
                colour, name = colours[ids[start]] / 255, classes[ids[start]]
                axes.axvspan(times[start], times[stop], color=colour, alpha=0.4, lw=0, label=name)
        axes.plot(times[:-1], signal[:, channel], "k", lw=0.8)
        axes.set_xlim(times[0], times[-1])
    axes.set_xlabel("sample" if rate is None else "s")
    named = dict(zip(*reversed(axes.get_legend_handles_labels())))
    if named:
        figure.legend(named.values(), named.keys(), loc="outside upper right", ncols=len(named))
    image = io.BytesIO()
    FigureCanvasAgg(figure).print_png(image)
    return image.getvalue()
