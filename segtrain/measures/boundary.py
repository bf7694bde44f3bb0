"""How well outlines fit: Boundary IoU (Cheng et al. 2021) and boundary F1 (Csurka et al. 2013)."""

from __future__ import annotations

import math

import cv2
import numpy as np
from scipy.spatial import cKDTree

from segtrain.evaluation import metrics
from segtrain.evaluation.metrics import mean, number, ratio
from segtrain.measures import Figures, Result

IOU_REACH = 0.02  # of the diagonal; boundary-iou-api: mask_to_boundary
F1_REACH = 0.008  # of the diagonal; davis-2017: db_eval_boundary
POLICY = (
    f"Boundary IoU: IoU of the pixels of each class at most round({IOU_REACH} of the diagonal) inside "
    "its outline or the image's border (Cheng et al. 2021); boundary F1: share of the outline's pixels "
    f"with one of the other outline within ceil({F1_REACH} of the diagonal), precision and recall as in "
    "DAVIS's script, per class as in Csurka et al. 2013; both are from counts pooled over images, "
    "then averaged over classes, those per image the means over images of the image's own; absent "
    "classes as for IoU; pixels whose truth is ignored are taken out of both masks"
)


class Boundary:
    """Counts of bands and outlines by class."""

    probabilistic, images_only = False, True

    def __init__(self, classes: int, ignore: int | None):
        self._classes, self._ignore = classes, ignore
        self._bands, self._outlines = np.zeros((3, classes), int), np.zeros((4, classes), int)
        self._images: list[Figures] = []

    def add(self, truth: np.ndarray, predicted: np.ndarray, probabilities: object = None) -> Figures:
        """Count an image; its own Boundary IoU and F1, means over its classes."""
        t, p = metrics.voided(truth, predicted, self._ignore)
        bands, lines = band_counts(t, p, self._classes), outline_counts(t, p, self._classes)
        self._bands += bands
        self._outlines += lines
        there = present(t, self._classes) | present(p, self._classes)
        own = {"boundary_iou": _iou(bands), "boundary_f1": np.where(there, f1(lines), np.nan)}
        self._images.append({key: number(mean(values)) for key, values in own.items()})
        return self._images[-1]

    def result(self) -> Result:
        """boundary_iou and boundary_f1, each also _per_image, and of each class."""
        per_class = {"boundary_iou": _iou(self._bands), "boundary_f1": f1(self._outlines)}
        there = self._bands[1:].any(axis=0)
        per_class["boundary_f1"] = np.where(there, per_class["boundary_f1"], np.nan)
        figures = {}
        for key, values in per_class.items():
            own = np.array([image[key] for image in self._images], float)
            figures[key] = number(mean(values))
            figures[f"{key}_per_image"] = number(mean(own)) if len(own) else None
        columns = {key: [number(v) for v in values] for key, values in per_class.items()}
        return Result(figures, POLICY, columns)


def build(classes: int, ignore: int | None) -> Boundary:
    """The measure, for masks of ids below `classes`."""
    return Boundary(classes, ignore)


def present(mask: np.ndarray, classes: int) -> np.ndarray:
    """Which classes a mask holds, (classes,) bool."""
    return np.bincount(mask.ravel(), minlength=metrics.VOID + 1)[:classes] > 0


# ---- Boundary IoU


def band_counts(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Pixels of each class in both bands, in the truth's and in the prediction's, (3, classes).

    All classes at once: a pixel is in its class's band where another label, or the border of the
    image, is within reach; that is the published definition, class by class.
    """
    reach = max(1, round(IOU_REACH * math.hypot(*truth.shape)))
    near, found = band(truth, reach), band(predicted, reach)
    both = near & found & (truth == predicted)
    parts = truth[both], truth[near], predicted[found]
    return np.stack([np.bincount(ids, minlength=metrics.VOID + 1)[:classes] for ids in parts])


def band(mask: np.ndarray, reach: int) -> np.ndarray:
    """Where another label or the border is at most `reach` rows and columns away, (H, W) bool."""
    window = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    mask = np.ascontiguousarray(mask)
    near = cv2.erode(mask, window) != cv2.dilate(mask, window)
    near[:reach] = near[-reach:] = True
    near[:, :reach] = near[:, -reach:] = True
    return near


def _iou(bands: np.ndarray) -> np.ndarray:
    both, truth, predicted = bands
    return ratio(both, truth + predicted - both)


# ---- boundary F1


def outline_counts(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Of each class's outlines: true pixels met, true, predicted met, predicted, (4, classes).

    truth, predicted: (H, W) uint8. A pixel is met by another one in a disk about it.
    """
    reach = math.ceil(F1_REACH * math.hypot(*truth.shape))
    (places, labels), (spots, names) = outlines(truth), outlines(predicted)
    counts = np.zeros((4, classes), int)
    for i in np.flatnonzero(present(truth, classes) | present(predicted, classes)):
        real, found = places[(labels == i).any(axis=1)], spots[(names == i).any(axis=1)]
        counts[:, i] = _met(real, found, reach), len(real), _met(found, real, reach), len(found)
    return counts


def outlines(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where a pixel's label isn't that of its right, lower and diagonal neighbours.

    The places (n, 2), and the four labels there (n, 4): a pixel is in the outline of each of them.
    """
    wide = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    four = [wide[:-1, :-1], wide[:-1, 1:], wide[1:, :-1], wide[1:, 1:]]
    differs = (four[0] != four[1]) | (four[0] != four[2]) | (four[0] != four[3])
    return np.argwhere(differs), np.stack([part[differs] for part in four], axis=1)


def _met(line: np.ndarray, other: np.ndarray, reach: int) -> int:
    """How many places (n, 2) have one of the others at most `reach` away."""
    if not len(line) or not len(other):
        return 0
    distance, _ = cKDTree(other).query(line, distance_upper_bound=reach + 1e-6)
    return int(np.isfinite(distance).sum())


def f1(lines: np.ndarray) -> np.ndarray:
    """F1 of each class (classes,) from its outlines' counts; 1 where neither has an outline."""
    met, true, hit, found = lines
    precision = np.where(found > 0, hit / np.maximum(found, 1), true == 0)
    recall = np.where(true > 0, met / np.maximum(true, 1), found == 0)
    return 2 * precision * recall / np.maximum(precision + recall, 1e-12)
