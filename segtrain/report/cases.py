"""The samples that a report shows: the worst and the best, with what the network made of them."""

from __future__ import annotations

from typing import Any, NamedTuple, Sequence

import numpy as np

from segtrain.bar import Bar
from segtrain.data.dataset import Dataset
from segtrain.evaluation import metrics
from segtrain.prediction.infer import Predictor
from segtrain.report import layers, traces
from segtrain.trained import Trained


class Case(NamedTuple):
    """A sample of the dataset, and what the network made of it."""

    place: int  # in the dataset
    name: str
    lowest: list[tuple[str, float]]  # up to three classes with their IoU
    wrong: float | None  # share of the scored pixels
    picture: Any  # layers.Layers, or for signals traces.Trace


def extremes(scores: Sequence[float | None], count: int) -> tuple[list[int], list[int]]:
    """The places of the `count` lowest, lowest first, and of the highest, highest first.

    No place is in both; those without a score are in neither.
    """
    order = [i for _, i in sorted((s, i) for i, s in enumerate(scores) if s is not None)]
    worst = order[: min(count, -(-len(order) // 2))]
    best = order[max(len(worst), len(order) - count) :]
    return worst, best[::-1]


def draw(trained: Trained, predictor: Predictor, dataset: Dataset, chosen: Sequence[int]) -> list[Case]:
    """The chosen samples with truth, prediction and errors, in the network's colours."""
    cases, album = [], _album(trained)
    for index in Bar(chosen, desc="report", unit="sample", leave=False):
        sample = dataset.read(index)
        mask = predictor.mask(sample.image)
        counts = metrics.confusion(sample.mask, mask, len(dataset.classes), dataset.ignore)
        wrong = 1 - np.trace(counts) / counts.sum() if counts.sum() else None
        cases.append(Case(index, dataset.ids[index], _lowest(counts, dataset.classes), wrong, None))
        album.add(sample, mask)
    return [case._replace(picture=picture) for case, picture in zip(cases, album.pictures())]


def _album(trained: Trained) -> Any:
    meaning = len(trained.classes), trained.ignore, trained.palette
    return traces.Album(trained.form, *meaning) if trained.form else layers.Album(*meaning)


def _lowest(counts: np.ndarray, classes: Sequence[str]) -> list[tuple[str, float]]:
    hits = np.diag(counts)
    union = counts.sum(axis=0) + counts.sum(axis=1) - hits
    found = [(hits[i] / union[i], name) for i, name in enumerate(classes) if union[i]]
    return [(name, float(iou)) for iou, name in sorted(found)[:3]]
