"""Scores from integer counts: one confusion matrix, ratios last."""

from __future__ import annotations

import warnings
from typing import Any, Sequence

import numpy as np

POLICY = (
    "IoU = true positives / (truth + predicted - true positives), pooled over all pixels whose "
    "truth is not ignored; a class absent from both truth and prediction is skipped, one that is "
    "predicted but absent from the truth scores 0; mIoU is the mean over the classes left"
)


def confusion(truth: np.ndarray, predicted: np.ndarray, classes: int, ignore: int) -> np.ndarray:
    """Pixels by true (row) and predicted (column) class, (classes, classes) int64.

    Pixels whose truth is `ignore` are left out.
    """
    valid = truth != ignore
    pairs = truth[valid].astype(np.int64) * classes + predicted[valid]
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def ious(matrix: np.ndarray) -> np.ndarray:
    """IoU of each class from confusions (..., classes, classes); nan for an absent class."""
    hits = np.diagonal(matrix, axis1=-2, axis2=-1)
    return _ratio(hits, matrix.sum(axis=-1) + matrix.sum(axis=-2) - hits)


def miou(matrix: np.ndarray) -> float:
    """Mean IoU over the classes that are not absent, by POLICY; nan if all are."""
    values = ious(matrix)
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def scores(matrix: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """mIoU, pixel accuracy and the per-class figures; None where a ratio has no denominator."""
    hits, truth, predicted = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    columns = {
        "iou": ious(matrix),
        "dice": _ratio(2 * hits, truth + predicted),
        "precision": _ratio(hits, predicted),
        "recall": _ratio(hits, truth),
    }
    per_class = [
        {
            "name": name,
            **{key: number(values[i]) for key, values in columns.items()},
            "pixels": int(truth[i]),
        }
        for i, name in enumerate(classes)
    ]
    return {
        "miou": number(miou(matrix)),
        "pixel_accuracy": number(_ratio(hits.sum(), matrix.sum())),
        "per_class": per_class,
    }


def bootstrap(matrices: np.ndarray, seed: int = 0, rounds: int = 1000) -> list[float | None]:
    """95% confidence interval of the pooled mIoU, by resampling images (Efron 1979).

    `matrices`: one confusion per image, (images, classes, classes).
    """
    rng = np.random.default_rng(seed)
    count = len(matrices)
    draws = rng.multinomial(count, np.full(count, 1 / count), size=rounds).astype(float)
    hits = draws @ np.diagonal(matrices, axis1=1, axis2=2)
    union = draws @ (matrices.sum(axis=1) + matrices.sum(axis=2)) - hits
    with warnings.catch_warnings():  # a draw may hold nothing but ignored pixels
        warnings.simplefilter("ignore", RuntimeWarning)
        values = np.nanmean(_ratio(hits, union), axis=1)
    return [number(v) for v in np.nanpercentile(values, [2.5, 97.5])]


def number(value: Any) -> float | None:
    """A float for JSON: None where there is no number."""
    return float(value) if np.isfinite(value) else None


def _ratio(part: Any, whole: Any) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.asarray(whole) > 0, np.asarray(part) / np.asarray(whole), np.nan)
