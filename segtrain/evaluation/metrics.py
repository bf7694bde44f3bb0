"""Scores from integer counts: one confusion matrix per image, ratios last."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple, Sequence

import cv2
import numpy as np

POLICY = (
    "IoU = true positives / (truth + predicted - true positives), pooled over all pixels whose "
    "truth is not ignored; a class absent from both truth and prediction is skipped, one that is "
    "predicted but absent from the truth scores 0; mIoU is the mean over the classes left, mean Dice "
    "likewise; mean accuracy is the mean recall of the classes in the truth"
)
VOID = 255  # no class has this id, because there are at most 255
_EXACT = 1 << 24  # pixels that OpenCV's histogram of floats counts exactly


class Counts(NamedTuple):
    """Pixels of each class, each (..., classes) int64; all scores but the confusion follow from them."""

    hits: np.ndarray  # predicted truly
    truth: np.ndarray
    predicted: np.ndarray

    def sum(self) -> Counts:
        """The counts pooled over the first axis."""
        return Counts(*(array.sum(axis=0) for array in self))


def confusion(truth: np.ndarray, predicted: np.ndarray, classes: int, ignore: int | None) -> np.ndarray:
    """Pixels by true (row) and predicted (column) class, (classes, classes) int64.

    truth, predicted: of any one shape, uint8. Pixels whose truth is `ignore` are left out.
    """
    t, p = (np.ascontiguousarray(mask, np.uint8).reshape(-1, 1) for mask in (truth, predicted))
    matrix = np.zeros((classes, classes), np.int64)
    for start in range(0, len(t), _EXACT):
        part = [t[start : start + _EXACT], p[start : start + _EXACT]]
        found = cv2.calcHist(part, [0, 1], None, [classes, classes], [0, classes, 0, classes])
        matrix += found.astype(np.int64)
    if ignore is not None and ignore < classes:
        matrix[ignore] = 0
    return matrix


def counts(matrix: np.ndarray) -> Counts:
    """The counts of confusions (..., classes, classes)."""
    hits = np.diagonal(matrix, axis1=-2, axis2=-1)
    return Counts(hits, matrix.sum(axis=-1), matrix.sum(axis=-2))


def ious(c: Counts) -> np.ndarray:
    """IoU of each class, (..., classes); nan for an absent class."""
    return ratio(c.hits, c.truth + c.predicted - c.hits)


def miou(c: Counts) -> np.ndarray:
    """Mean IoU (...) over the classes that are not absent, by POLICY; nan if all are."""
    return mean(ious(c))


def summary(c: Counts) -> dict[str, float | None]:
    """The figures over all classes, from counts (classes,); None where one has no denominator.

    miou; dice and mean_accuracy, means over classes; pixel_accuracy; frequency_weighted_iou, each
    class by its share of the truth (Long et al. 2015); kappa (Cohen 1960).
    """
    pixels = c.truth.sum()
    share = ratio(c.truth, pixels)
    agreed, by_chance = ratio(c.hits.sum(), pixels), (share * ratio(c.predicted, pixels)).sum()
    figures = {
        "miou": miou(c),
        "dice": mean(_dice(c)),
        "pixel_accuracy": agreed,
        "mean_accuracy": mean(ratio(c.hits, c.truth)),
        "frequency_weighted_iou": np.nansum(share * ious(c)) if pixels else np.nan,
        "kappa": ratio(agreed - by_chance, 1 - by_chance),
    }
    return {key: number(value) for key, value in figures.items()}


def scores(c: Counts, classes: Sequence[str]) -> dict[str, Any]:
    """`summary`, and per_class[{name, iou, dice, precision, recall, pixels}]."""
    columns = {
        "iou": ious(c),
        "dice": _dice(c),
        "precision": ratio(c.hits, c.predicted),
        "recall": ratio(c.hits, c.truth),
    }
    per_class = [
        {
            "name": name,
            **{key: number(values[i]) for key, values in columns.items()},
            "pixels": int(c.truth[i]),
        }
        for i, name in enumerate(classes)
    ]
    return {**summary(c), "per_class": per_class}


def bootstrap(images: Counts, seed: int = 0, rounds: int = 1000) -> list[float | None]:
    """95% confidence interval of the pooled mIoU, by resampling images (Efron 1979).

    `images`: the counts of each image, (images, classes).
    """
    values = miou(resampled(images, np.random.default_rng(seed), rounds)[0])
    return interval(values)


def resampled(images: Counts, rng: np.random.Generator, rounds: int, *more: Counts) -> list[Counts]:
    """Pooled counts (rounds, classes) of `rounds` draws of as many images as there are.

    `more`: other counts of the same images, which get the same draws.
    """
    n = len(images.hits)
    picks = rng.integers(0, n, (rounds, n)) + n * np.arange(rounds)[:, None]
    draws = np.bincount(picks.ravel(), minlength=rounds * n).reshape(rounds, n).astype(float)
    return [Counts(*(draws @ array for array in group)) for group in (images, *more)]


def interval(values: np.ndarray) -> list[float | None]:
    """From the 2.5th to the 97.5th percentile of values (n,), leaving out what is no number."""
    known = values[np.isfinite(values)]
    return [number(v) for v in np.percentile(known, [2.5, 97.5])] if len(known) else [None, None]


def voided(
    truth: np.ndarray, predicted: np.ndarray, ignore: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Both masks (H, W), or (L,), uint8 with VOID where the truth is `ignore`, for scores of shapes.

    So neither has a region there, and its border is in both: it is neither won nor lost.
    """
    if ignore is None:
        return truth, predicted
    hidden = truth == ignore
    return np.where(hidden, np.uint8(VOID), truth), np.where(hidden, np.uint8(VOID), predicted)


def number(value: Any) -> float | None:
    """A float for JSON: None where there is no number."""
    return float(value) if np.isfinite(value) else None


def mean(values: np.ndarray) -> np.ndarray:
    """The mean over the last axis of what is a number; nan where nothing is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.nanmean(values, axis=-1)


def ratio(part: Any, whole: Any) -> np.ndarray:
    """part / whole, nan where the whole isn't positive."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.asarray(whole) > 0, np.asarray(part) / np.asarray(whole), np.nan)


def _dice(c: Counts) -> np.ndarray:
    return ratio(2 * c.hits, c.truth + c.predicted)
