"""Large images in overlapping windows, whose probabilities are blended with little memory.

It needs numpy alone.
"""

from __future__ import annotations

from typing import Callable, Iterator, NamedTuple, Sequence

import numpy as np

BLENDS = ("gaussian", "uniform")
FLOAT32_LIMIT = 2**28  # bytes; rows that wait for the windows below are kept as float16 beyond it


class Windows(NamedTuple):
    """How an image is cut: square windows of `side`, each overlapping the next by a share of it.

    blend: how windows are weighted where they overlap: "uniform", or "gaussian", by a Gaussian of
    deviation side / 8 about the window's centre (Isensee et al. 2021, nnU-Net, section "inference").
    stride: the network's. Windows begin at its multiples, because a network that halves its input
    sees pairs of pixels: at an odd place it would see other pairs than in the whole image.
    """

    side: int
    overlap: float = 0.5
    blend: str = "gaussian"
    stride: int = 1

    def spans(self, length: int) -> list[slice]:
        """The windows along a side of an image, evenly spread.

        They overlap at least as asked, so far as the stride allows; the last one may be shorter.
        """
        if self.side >= length:
            return [slice(0, length)]
        last = -((self.side - length) // self.stride)  # in strides, as is `most`
        most = max(1, int(self.side * (1 - self.overlap) / self.stride))
        starts = np.linspace(0, last, 1 - -last // most).round().astype(int) * self.stride
        return [slice(start, min(start + self.side, length)) for start in starts.tolist()]


def shares(windows: Sequence[slice], blend: str) -> list[np.ndarray]:
    """Each window's share float32 of each of its places; at every place they add up to 1."""
    side = windows[0].stop
    weight = np.ones(side)
    if blend == "gaussian":
        weight = np.exp(-0.5 * ((np.arange(side) - (side - 1) / 2) / (side / 8)) ** 2)
    total = np.zeros(windows[-1].stop)
    weights = [weight[: window.stop - window.start] for window in windows]
    for window, part in zip(windows, weights):
        total[window] += part
    return [(part / total[window]).astype(np.float32) for window, part in zip(windows, weights)]


def blended(
    image: np.ndarray, windows: Windows, run: Callable[[np.ndarray], np.ndarray], batch: int = 1
) -> Iterator[tuple[tuple[slice, slice], np.ndarray]]:
    """Blend the probabilities of windows of an image (H, W, C), a finished part at a time.

    run: windows (N, h, w, C), at most `batch` of them, to a new array of probabilities
    (N, classes, h, w) float32. Yields rows and columns with their probabilities (classes, h, w)
    float32; they cover the image once, from top to bottom and from left to right. What is held is a
    few windows, and the rows that the next windows reach too: classes x overlap x side x W values.
    """
    rows, columns = (windows.spans(length) for length in image.shape[:2])
    across, down = shares(columns, windows.blend), shares(rows, windows.blend)
    above, shared = np.zeros(0), 0  # what the windows above gave to the first rows of the next ones
    for row, share, end in zip(rows, down, _ends(rows)):
        for place, found in _across(_filled(image[row], rows, 0), columns, across, run, batch):
            found = found[:, : len(share)]
            found *= share[:, None]
            if shared:
                found[:, :shared] += above[:, :shared, place]
            done, rest = np.split(found, [end - row.start], axis=1)
            if rest.shape[1]:
                above = above if above.size else _rows(len(found), rows, image.shape[1])
                above[:, : rest.shape[1], place] = rest
            yield (slice(row.start, end), place), done
        shared = row.stop - end


def _across(
    image: np.ndarray,
    columns: Sequence[slice],
    across: Sequence[np.ndarray],
    run: Callable[[np.ndarray], np.ndarray],
    batch: int,
) -> Iterator[tuple[slice, np.ndarray]]:
    """A row of windows: the columns that no further window reaches, and (classes, h, w) there."""
    left: np.ndarray | None = None
    for column, share, end, found in zip(
        columns, across, _ends(columns), _each(image, columns, run, batch)
    ):
        found = found[:, :, : len(share)]
        found *= share
        if left is not None:
            found[:, :, : left.shape[2]] += left
        done, left = np.split(found, [end - column.start], axis=2)
        yield slice(column.start, end), done


def _each(
    image: np.ndarray, columns: Sequence[slice], run: Callable[[np.ndarray], np.ndarray], batch: int
) -> Iterator[np.ndarray]:
    for first in range(0, len(columns), batch):
        group = columns[first : first + batch]
        yield from run(np.stack([_filled(image[:, column], columns, 1) for column in group]))


def _filled(window: np.ndarray, windows: Sequence[slice], axis: int) -> np.ndarray:
    """A window as large as the others, mirrored at its end, as the network would do by itself."""
    missing = windows[0].stop - window.shape[axis]
    if not missing:
        return window
    return np.pad(window, [(0, missing * (axis == i)) for i in range(window.ndim)], mode="reflect")


def _ends(windows: Sequence[slice]) -> list[int]:
    """Where what a window alone finishes ends: at the next window's start."""
    return [*(window.start for window in windows[1:]), windows[-1].stop]


def _rows(classes: int, rows: Sequence[slice], width: int) -> np.ndarray:
    """Room for the rows that windows share with those below them."""
    shape = classes, max(a.stop - b.start for a, b in zip(rows, rows[1:])), width
    small = 4 * np.prod(shape, dtype=np.int64) <= FLOAT32_LIMIT
    return np.empty(shape, np.float32 if small else np.float16)
