"""Scores that cost more than counting: one module each, found by its name, run where asked for.

A module has ``build(classes, ignore)``, whose result has `add`, called with each image's truth and
prediction (H, W) uint8 and, where `probabilistic`, its probabilities (classes, H, W), which gives the
image's own figures; and `result`. `images_only` says that it can't judge signals.
"""

from __future__ import annotations

from typing import Any, Dict, List, NamedTuple, Optional, Protocol

import numpy as np

Figures = Dict[str, Optional[float]]


class Result(NamedTuple):
    """The scores over all images, and what was measured, in words."""

    figures: Figures
    policy: str
    per_class: Dict[str, List[Optional[float]]] = {}  # columns of the table of classes
    details: Dict[str, Any] = {}


class Measure(Protocol):
    """One of the modules' measures, at work."""

    probabilistic: bool
    images_only: bool

    def add(
        self, truth: np.ndarray, predicted: np.ndarray, probabilities: Optional[np.ndarray]
    ) -> Figures:
        """Count an image, and return its own figures."""
        ...

    def result(self) -> Result:
        """The scores over all images so far."""
        ...
