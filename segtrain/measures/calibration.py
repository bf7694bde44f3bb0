"""Whether probabilities mean what they say: expected calibration error (Guo et al. 2017)."""

from __future__ import annotations

import numpy as np

from segtrain.evaluation.metrics import number
from segtrain.measures import Figures, Result

BINS = 15
POLICY = (
    f"expected calibration error (Guo et al. 2017, eq. 3): |accuracy - mean confidence| in {BINS} equal "
    "bins of the confidence, the highest probability of a pixel, weighted by their pixels; over all "
    "pixels whose truth is not ignored"
)


class Calibration:
    """Pixels, confidence and hits by bin of confidence."""

    probabilistic, images_only = True, False

    def __init__(self, ignore: int | None):
        self._ignore = ignore
        self._sums = np.zeros((3, BINS))  # pixels, confidence, hits

    def add(self, truth: np.ndarray, predicted: np.ndarray, probabilities: np.ndarray | None) -> Figures:
        """Count an image, and return its own error."""
        assert probabilities is not None
        valid = np.ones(truth.shape, bool) if self._ignore is None else truth != self._ignore
        confidence = probabilities.max(axis=0)[valid].astype(float)
        hits = (predicted == truth)[valid]
        # a bin holds its upper edge
        bins = np.clip(np.ceil(confidence * BINS).astype(np.intp) - 1, 0, BINS - 1)
        sums = np.stack([np.bincount(bins, w, BINS) for w in (None, confidence, hits)])
        self._sums += sums
        return {"ece": _error(sums)}

    def result(self) -> Result:
        """ece, and calibration[{confidence, accuracy, pixels}], a row per bin, None in an empty one."""
        rows = [
            {
                "confidence": confidence / pixels if pixels else None,
                "accuracy": hits / pixels if pixels else None,
                "pixels": int(pixels),
            }
            for pixels, confidence, hits in self._sums.T.tolist()
        ]
        return Result({"ece": _error(self._sums)}, POLICY, details={"calibration": rows})


def build(classes: int, ignore: int | None) -> Calibration:
    """The measure, for any number of classes."""
    return Calibration(ignore)


def _error(sums: np.ndarray) -> float | None:
    pixels, confidence, hits = sums
    return number(np.abs(hits - confidence).sum() / pixels.sum()) if pixels.sum() else None
