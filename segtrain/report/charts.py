"""Curves over the epochs, as the coordinates of plain SVG whose colours are the page's."""

from __future__ import annotations

from typing import Any, NamedTuple, Sequence

import numpy as np
from matplotlib.ticker import MaxNLocator

from segtrain.report.facts import Row

WIDTH, HEIGHT = 400, 220
LEFT, RIGHT, TOP, BOTTOM = 46, 388, 12, 188
_HITS = 200  # at most so many columns that answer to the pointer
_APART = {"epoch", "step", "lr", "seconds", "images_per_second"}


class Series(NamedTuple):
    """A curve: (epoch, value) where it has one."""

    name: str
    points: list[tuple[float, float]]


class Scale(NamedTuple):
    """Values to places along an axis."""

    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.stop - self.start), 2)


def curves(history: Sequence[Row], best: dict[str, Any]) -> list[dict[str, Any]]:
    """The charts of a history: losses, learning rate, scores; without those that have no values."""
    columns = list(dict.fromkeys(key for row in history for key in row))
    losses = [name for name in columns if name.startswith("loss")]
    if len(losses) == 2:  # one part, which is the whole
        losses = ["loss"]
    scores = [name for name in columns if name not in {*losses, *_APART} and _is_share(history, name)]
    mark = (best["epoch"], best["miou"]) if best else None
    epochs = [row["epoch"] for row in history if row.get("epoch") is not None]
    found = [
        chart("Loss", epochs, _series(history, losses), zero=False),
        chart("Learning rate", epochs, _series(history, ["lr"])),
        chart("Scores on validation", epochs, _series(history, scores), mark),
    ]
    return [one for one in found if one["series"]]


def _is_share(history: Sequence[Row], name: str) -> bool:
    values = [row[name] for row in history if row.get(name) is not None]
    return bool(values) and all(0 <= value <= 1 for value in values)


def _series(history: Sequence[Row], names: Sequence[str]) -> list[Series]:
    found = []
    for name in names:
        points = [(row["epoch"], row[name]) for row in history if row.get(name) is not None]
        found.append(Series(name, points))
    return [series for series in found if series.points]


def chart(
    title: str,
    epochs: Sequence[float],
    series: Sequence[Series],
    mark: tuple[float, float] | None = None,
    zero: bool = True,
) -> dict[str, Any]:
    """What the template draws: ticks, polylines, and columns that tell the values at an epoch.

    epochs: those that the axis spans; mark: a point to ring; zero: the vertical axis begins at 0.
    Without a series there is nothing to draw.
    """
    if not series:
        return {"series": []}
    xs = sorted({x for one in series for x, _ in one.points})
    ys = [y for one in series for _, y in one.points] + ([0.0] if zero else [])
    room = 0 if len(epochs) > 1 else 0.5  # a single epoch stands in the middle
    x_scale = Scale(min(epochs) - room, max(epochs) + room, LEFT + 6, RIGHT - 6)
    along = [x for x in ticks(x_scale.low, x_scale.high, 6) if x == int(x)]
    up = ticks(min(ys), max(ys) if max(ys) > min(ys) else min(ys) + 1, 5)
    y_scale = Scale(up[0], up[-1], BOTTOM, TOP)
    return {
        "title": title,
        "x_ticks": [(x_scale(x), f"{x:g}") for x in along if x_scale.low <= x <= x_scale.high],
        "y_ticks": [(y_scale(y), f"{y:.12g}") for y in up],
        "series": [_drawn(one, x_scale, y_scale) for one in series],
        "mark": mark and (x_scale(mark[0]), y_scale(mark[1])),
        "hits": _hits(series, xs, x_scale),
    }


def histogram(scores: Sequence[float], bins: int = 20) -> dict[str, Any]:
    """How many scores fall into each of `bins` equal parts of 0 to 1, as the template draws it."""
    counts = np.histogram(scores, bins, (0, 1))[0].tolist()
    up = [y for y in ticks(0, max(*counts, 1), 4) if y == int(y)]
    x_scale, y_scale = Scale(0, 1, LEFT, RIGHT), Scale(0, up[-1], BOTTOM, TOP)
    return {
        "x_ticks": [(x_scale(x), f"{x:g}") for x in (0, 0.2, 0.4, 0.6, 0.8, 1)],
        "y_ticks": [(y_scale(y), f"{y:g}") for y in up],
        "bars": [
            {
                "x": x_scale(i / bins) + 1,
                "y": y_scale(count),
                "width": round((RIGHT - LEFT) / bins - 2, 2),
                "told": f"{i / bins:.2f} to {(i + 1) / bins:.2f}: {count}",
            }
            for i, count in enumerate(counts)
        ],
    }


def ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round values from at or below `low` to at or above `high`."""
    found = MaxNLocator(count, steps=[1, 2, 5, 10]).tick_values(low, high)
    return [float(round(value, 12)) for value in found]


def _drawn(series: Series, x_scale: Scale, y_scale: Scale) -> dict[str, Any]:
    places = [(x_scale(x), y_scale(y)) for x, y in series.points]
    return {
        "name": series.name,
        "line": " ".join(f"{x:g},{y:g}" for x, y in places),
        "dots": places if len(places) <= 30 else [],
    }


def _hits(series: Sequence[Series], xs: Sequence[float], x_scale: Scale) -> list[dict[str, Any]]:
    chosen = xs[:: -(-len(xs) // _HITS)]
    width = max(2.0, (RIGHT - LEFT) / max(len(chosen), 2))
    values = {one.name: dict(one.points) for one in series}
    spans = {x: (max(x_scale(x) - width / 2, LEFT), min(x_scale(x) + width / 2, RIGHT)) for x in chosen}
    return [
        {
            "x": round(spans[x][0], 2),
            "width": round(spans[x][1] - spans[x][0], 2),
            "middle": x_scale(x),
            "epoch": f"{x:g}",
            "values": [(name, at[x]) for name, at in values.items() if x in at],
        }
        for x in chosen
    ]
