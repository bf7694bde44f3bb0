"""Whether regions are split or merged: Rand error and variation of information of their partition."""

from __future__ import annotations

import cv2
import numpy as np
from scipy.sparse import coo_matrix
from scipy.special import entr

from segtrain.evaluation import metrics
from segtrain.evaluation.metrics import mean, number
from segtrain.measures import Figures, Result

KEYS = ("rand_error", "vi", "vi_split", "vi_merge")
POLICY = (
    "a segment is a connected component (8 neighbours; of a signal a stretch) of one class, the first "
    "too; rand_error is the "
    "adapted Rand error (Arganda-Carreras et al. 2015), vi the variation of information in bits "
    "(Meila 2007), the sum of vi_split (truth's segments cut up) and vi_merge (run together); means "
    "over images; pixels whose truth is ignored are taken out of both masks"
)


class Segments:
    """The figures of each image."""

    probabilistic, images_only = False, False

    def __init__(self, ignore: int | None):
        self._ignore = ignore
        self._images: list[Figures] = []

    def add(self, truth: np.ndarray, predicted: np.ndarray, probabilities: object = None) -> Figures:
        """Compare an image's two partitions."""
        t, p = (components(mask) for mask in metrics.voided(truth, predicted, self._ignore))
        found = compare(t[t > 0], p[t > 0])
        self._images.append(dict(zip(KEYS, map(number, found))))
        return self._images[-1]

    def result(self) -> Result:
        """rand_error, vi, vi_split, vi_merge: means over the images that have them."""
        rows = np.array([[image[key] for key in KEYS] for image in self._images], float)
        values = mean(rows.T) if len(rows) else [np.nan] * len(KEYS)
        return Result(dict(zip(KEYS, map(number, values))), POLICY)


def build(classes: int, ignore: int | None) -> Segments:
    """The measure, for any number of classes."""
    return Segments(ignore)


def components(mask: np.ndarray) -> np.ndarray:
    """The connected components of ids (H, W) or (L,), each with a number from 1 on; 0 where VOID."""
    labels, count = np.zeros(mask.shape, np.int32), 0
    for i in np.flatnonzero(np.bincount(mask.ravel(), minlength=metrics.VOID)[: metrics.VOID]):
        last, found = cv2.connectedComponents(np.atleast_2d(mask == i).astype(np.uint8), connectivity=8)
        found = found.reshape(mask.shape)
        np.add(found, count, out=labels, where=found > 0)
        count += last - 1
    return labels


def compare(truth: np.ndarray, predicted: np.ndarray) -> tuple[float, float, float, float]:
    """rand_error, vi, vi_split, vi_merge of two partitions of pixels; nan without any.

    truth, predicted: the segment (n,) of each pixel, a whole number. The error is from 0 to 1, the
    variations of information are in bits.
    """
    n = len(truth)
    if not n:
        return (np.nan,) * 4
    table = coo_matrix((np.ones(n), (truth, predicted))).tocsr()  # adds up what has one place
    pairs, true, found = table.data, *(np.asarray(table.sum(axis=axis)).ravel() for axis in (1, 0))
    together, in_true, in_found = (((c * c).sum() - n) / 2 for c in (pairs, true, found))
    rand = 1 - 2 * together / (in_true + in_found) if in_true + in_found else 0.0
    both, entropy_true, entropy_found = (_entropy(c / n) for c in (pairs, true, found))
    split, merge = both - entropy_true, both - entropy_found
    return rand, split + merge, split, merge


def _entropy(shares: np.ndarray) -> float:
    return float(entr(shares).sum() / np.log(2))
