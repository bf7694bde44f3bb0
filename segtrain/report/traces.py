"""A record as curves over strips of its truth, its prediction and its errors."""

from __future__ import annotations

from typing import Any, List, NamedTuple

import numpy as np

from segtrain.data.dataset import Sample
from segtrain.prediction.records import Form
from segtrain.report.charts import Scale, ticks
from segtrain.report.layers import ERROR, webp

WIDTH, LEFT, ROW, STRIP = 1000, 84, 110, 18
COLUMNS = 1200  # at most so many places along a record: no screen shows more
_VOID = (140, 140, 140, 255)


class Trace(NamedTuple):
    """Where things lie in a drawing `width` wide; strips are data URIs one pixel high."""

    width: int
    height: int
    left: int  # where the record begins
    strip: int  # height of a strip
    channels: list[dict[str, Any]]  # name, top, line
    strips: list[dict[str, Any]]  # name, top, uri
    ticks: list[tuple[float, str]]
    unit: str


class Album:
    """Drawings of records of that form."""

    def __init__(self, form: Form, classes: int, ignore: int, palette: np.ndarray):
        self._colours = np.zeros((256, 4), np.uint8)
        self._colours[1:classes, :3] = palette[1:classes]  # the first has no colour, as in plots
        self._colours[1:classes, 3] = 255
        self._colours[ignore] = _VOID
        self._form, self._ignore = form, ignore
        self._traces: List[Trace] = []

    def add(self, sample: Sample, predicted: np.ndarray) -> None:
        """Draw a record and its predicted class ids (L,)."""
        length, count = sample.image.shape
        channels = [
            {"name": self._name(i, count), "top": i * ROW, "line": _line(sample.image[:, i], i * ROW)}
            for i in range(count)
        ]
        below = count * ROW + 8
        strips = [
            {"name": name, "top": below + i * (STRIP + 4), "uri": webp(colours[None], 101)}
            for i, (name, colours) in enumerate(self._strips(sample.mask, predicted))
        ]
        height = below + 3 * (STRIP + 4) + 22
        self._traces.append(Trace(WIDTH, height, LEFT, STRIP, channels, strips, *self._axis(length)))

    def pictures(self) -> list[Trace]:
        """The drawing of each, in the order they came."""
        return self._traces

    def _name(self, index: int, count: int) -> str:
        names = self._form.signal
        return names[index] if count == len(names) else f"{names[0]} {index}"

    def _strips(self, truth: np.ndarray, predicted: np.ndarray) -> list[tuple[str, np.ndarray]]:
        void = truth == self._ignore
        wrong = (truth != predicted) & ~void
        starts = _starts(len(truth))
        errors = np.zeros((len(starts), 4), np.uint8)
        errors[np.logical_and.reduceat(void, starts)] = _VOID
        errors[np.logical_or.reduceat(wrong, starts)] = (*ERROR, 255)
        return [
            ("truth", self._colours[truth[starts]]),
            ("prediction", self._colours[predicted[starts]]),
            ("errors", errors),
        ]

    def _axis(self, length: int) -> tuple[list[tuple[float, str]], str]:
        last = length / (self._form.rate or 1)
        scale = Scale(0, last, LEFT, WIDTH)
        marks = [(scale(at), f"{at:g}") for at in ticks(0, last, 10) if 0 <= at < last]
        return marks, "s" if self._form.rate else "sample"


def _starts(length: int) -> np.ndarray:
    """The first sample of each of up to COLUMNS equal stretches."""
    return np.unique(np.linspace(0, length, min(length, COLUMNS), endpoint=False).astype(int))


def _line(values: np.ndarray, top: float) -> str:
    """A channel (L,) as the points of a polyline: of a stretch its lowest and its highest."""
    starts = _starts(len(values))
    lows, highs = np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts)
    low, high = float(values.min()), float(values.max())
    down = Scale(low, high if high > low else low + 1, top + ROW - 6, top + 6)
    along = Scale(0, len(values), LEFT, WIDTH)
    if len(starts) == len(values):
        return " ".join(f"{along(i):g},{down(float(v)):g}" for i, v in enumerate(values))
    return " ".join(
        f"{along(float(i)):g},{down(float(v)):g}" for i, *both in zip(starts, lows, highs) for v in both
    )
