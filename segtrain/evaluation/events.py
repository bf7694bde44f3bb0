"""Onsets and offsets of signals' events: found in labels, matched within a tolerance, scored.

A true and a predicted onset match where they are at most the tolerance apart, which is the rule of
ECG delineation (Moskalenko et al. 2020, after the Association for the Advancement of Medical
Instrumentation's 150 ms, ANSI/AAMI EC57). Each is matched once: of all such matchings one with the
most pairs is taken, and of those one with the least total distance.
"""

from __future__ import annotations

from typing import Any, List, NamedTuple, Optional, Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from segtrain.evaluation.metrics import number

POLICY = (
    "an onset is the first sample of a stretch of one class and an offset its last; true and "
    "predicted ones are matched one to one within the tolerance, as many as possible, then with the "
    "least total distance; one at a record's end or beside ignored samples isn't counted, because "
    "what lies beyond is unknown; times are predicted - true; the mean F1 is that over the onsets and "
    "offsets of all classes that have an F1"
)
KINDS = ("onset", "offset")


class Edges(NamedTuple):
    """Where the stretches of a class begin, or end, in rising order."""

    places: np.ndarray  # (n,) samples
    seen: np.ndarray  # (n,) bool: False where the neighbour beyond is ignored or isn't there


def edges(mask: np.ndarray, class_id: int, ignore: int) -> tuple[Edges, Edges]:
    """The onsets and the offsets of a class in labels (L,)."""
    held = np.concatenate([[False], mask == class_id, [False]])
    known = np.concatenate([[False], mask != ignore, [False]])
    steps = np.diff(held.astype(np.int8))
    first, last = np.flatnonzero(steps == 1), np.flatnonzero(steps == -1) - 1
    return Edges(first, known[first]), Edges(last, known[last + 2])


def match(truth: np.ndarray, predicted: np.ndarray, reach: float) -> np.ndarray:
    """Pairs (n, 2) of indices into `truth` and `predicted`, rising places, at most `reach` apart.

    Of all ways to pair them this makes the most pairs, and of these the nearest.
    """
    pairs: List[np.ndarray] = []
    groups = np.flatnonzero(np.diff(truth) > 2 * reach) + 1  # no prediction reaches two of them
    for group in np.split(np.arange(len(truth)), groups) if len(truth) else []:
        start = np.searchsorted(predicted, truth[group[0]] - reach, "left")
        stop = np.searchsorted(predicted, truth[group[-1]] + reach, "right")
        apart = np.abs(truth[group, None] - predicted[None, start:stop])
        worth = np.where(apart <= reach, (reach + 1) * (len(group) + 1) - apart, 0)
        rows, columns = linear_sum_assignment(worth, maximize=True)
        real = worth[rows, columns] > 0
        pairs.append(np.stack([group[rows[real]], start + columns[real]], axis=1))
    return np.concatenate(pairs) if pairs else np.zeros((0, 2), int)


class Tally:
    """Counts and errors of matched onsets and offsets, record after record.

    rate: samples per second; background: the class that is no event, None if all are.
    """

    def __init__(
        self,
        classes: Sequence[str],
        background: Optional[int],
        ignore: int,
        rate: float,
        tolerance_ms: float,
    ):
        self._ignore, self._rate, self._tolerance = ignore, rate, tolerance_ms
        self._names = {i: name for i, name in enumerate(classes) if i != background}
        self._counts = {(i, kind): np.zeros(3, int) for i in self._names for kind in KINDS}
        self._errors: dict[tuple[int, str], List[np.ndarray]] = {key: [] for key in self._counts}

    def add(self, truth: np.ndarray, predicted: np.ndarray) -> None:
        """Count a record's labels (L,), true and predicted."""
        predicted = np.where(truth == self._ignore, self._ignore, predicted)
        for class_id in self._names:
            both = (edges(mask, class_id, self._ignore) for mask in (truth, predicted))
            for kind, real, found in zip(KINDS, *both):
                self._count((class_id, kind), real, found)

    def _count(self, key: tuple[int, str], real: Edges, found: Edges) -> None:
        reach = self._tolerance * self._rate / 1000 + 1e-9
        pairs = match(real.places, found.places, reach)
        missed, extra = (
            np.delete(edge.seen, pairs[:, side]).sum() for side, edge in enumerate((real, found))
        )
        pairs = pairs[real.seen[pairs[:, 0]]]
        self._counts[key] += [len(pairs), missed, extra]
        apart = found.places[pairs[:, 1]] - real.places[pairs[:, 0]]
        self._errors[key].append(apart * 1000 / self._rate)

    def parts(self) -> List[Any]:
        """The counts and errors so far, for JSON."""
        return [
            [c.tolist() for c in self._counts.values()],
            [np.concatenate([*e, np.zeros(0)]).tolist() for e in self._errors.values()],
        ]

    def replace(self, parts: Sequence[Any]) -> None:
        """Have the sum of `parts` of several tallies in place of one's own."""
        for row, key in enumerate(self._counts):
            self._counts[key] = np.sum([counts[row] for counts, _ in parts], axis=0)
            self._errors[key] = [np.array(errors[row], float) for _, errors in parts]

    def result(self) -> dict[str, Any]:
        """For JSON: tolerance_ms, classes[{name, onset, offset}], mean_f1, policy."""
        classes = [
            {"name": name, **{kind: self._scores((i, kind)) for kind in KINDS}}
            for i, name in self._names.items()
        ]
        found = [row[kind]["f1"] for row in classes for kind in KINDS]  # type: ignore[index]
        found = [f1 for f1 in found if f1 is not None]
        return {
            "tolerance_ms": self._tolerance,
            "classes": classes,
            "mean_f1": float(np.mean(found)) if found else None,
            "policy": POLICY,
        }

    def _scores(self, key: tuple[int, str]) -> dict[str, Any]:
        hits, missed, extra = self._counts[key].tolist()
        errors = np.concatenate([*self._errors[key], np.zeros(0)])
        return {
            "sensitivity": hits / (hits + missed) if hits + missed else None,
            "ppv": hits / (hits + extra) if hits + extra else None,
            "f1": 2 * hits / (2 * hits + missed + extra) if hits + missed + extra else None,
            "mean_ms": number(errors.mean()) if hits else None,
            "std_ms": number(errors.std()) if hits else None,
            "true": hits + missed,
            "predicted": hits + extra,
        }


def tally(dataset: Any, tolerance_ms: float) -> Optional[Tally]:
    """What counts a dataset's events; None for images, and where a second's samples are unknown."""
    rate = getattr(dataset, "rate", None)
    if rate is None:
        return None
    return Tally(dataset.classes, dataset.background, dataset.ignore, rate, tolerance_ms)
