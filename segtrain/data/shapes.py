"""A synthetic dataset: circles, squares and triangles of any colour on a cluttered ground.

Colour tells nothing, so a network has to learn the shapes. Each sample is a pure function of
the seed, the split and its index.
"""

from __future__ import annotations

from pathlib import Path
from typing import Tuple

import cv2
import numpy as np

from segtrain.data.dataset import SPLITS, Sample
from segtrain.errors import UserError

CLASSES = ["ground", "circle", "square", "triangle"]


class Shapes:
    """`count` pictures of `size` (height, width)."""

    classes = CLASSES
    ignore = 255
    dtype = "uint8"
    problems: list[str] = []

    def __init__(self, split: str, count: int, size: tuple[int, int], seed: int):
        self.ids = [f"{split}-{i:05d}" for i in range(count)]
        self._size = size
        self._seed = (seed, SPLITS.index(split))

    def name(self, index: int) -> str:
        return self.ids[index]

    def files(self, index: int) -> tuple[Path, ...]:
        return ()

    def read(self, index: int) -> Sample:
        rng = np.random.default_rng([*self._seed, index])
        image = _ground(rng, self._size)
        mask = np.zeros(self._size, np.uint8)
        for _ in range(int(rng.integers(2, 6))):
            _place(rng, image, mask)
        noise = rng.normal(0, 12, image.shape)
        return Sample(np.clip(image + noise, 0, 255).astype(np.uint8), mask)


def build(
    split: str,
    *,
    size: Tuple[int, int] = (96, 96),
    train: int = 400,
    val: int = 80,
    test: int = 80,
    seed: int = 0,
) -> Shapes:
    """The named split; size: height, width; train, val, test: how many pictures each has;
    seed: of the pictures.
    """
    counts = {"train": train, "val": val, "test": test}
    if split not in counts:
        raise UserError(f"no split {split!r}; there are {', '.join(SPLITS)}")
    if min(size) < 32:
        raise UserError(f"data.size={size}: shapes need 32 pixels on each side")
    return Shapes(split, counts[split], size, seed)


def _ground(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """A soft random gradient with thin lines across: what is not a shape."""
    height, width = size
    coarse = rng.uniform(0, 255, (4, 4, 3)).astype(np.float32)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    for _ in range(int(rng.integers(2, 6))):
        a, b = rng.integers(0, [width, height], (2, 2)).tolist()
        cv2.line(image, a, b, rng.uniform(0, 255, 3).tolist(), int(rng.integers(1, 3)), cv2.LINE_AA)
    return image


def _place(rng: np.random.Generator, image: np.ndarray, mask: np.ndarray) -> None:
    """Draw one shape where it covers no other; none after ten tries."""
    height, width = mask.shape
    for _ in range(10):
        kind = int(rng.integers(1, len(CLASSES)))
        radius = rng.uniform(0.1, 0.22) * min(height, width)
        centre = rng.uniform([radius, radius], [width - radius, height - radius])
        stamp = np.zeros_like(mask)
        _draw(stamp, kind, centre, radius, rng.uniform(0, 2 * np.pi))
        room = cv2.dilate(stamp, np.ones((3, 3), np.uint8))
        if not (room & mask).any() and not mask[room > 0].any():
            mask[stamp > 0] = kind
            image[stamp > 0] = _distinct(rng, image[stamp > 0].mean(axis=0))
            return


def _draw(stamp: np.ndarray, kind: int, centre: np.ndarray, radius: float, turn: float) -> None:
    if kind == 1:
        cv2.circle(stamp, np.rint(centre).astype(int).tolist(), int(radius), 1, -1)
        return
    corners = 4 if kind == 2 else 3
    angles = turn + np.arange(corners) * 2 * np.pi / corners
    points = centre + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    cv2.fillPoly(stamp, [np.rint(points).astype(np.int32)], 1)


def _distinct(rng: np.random.Generator, ground: np.ndarray) -> np.ndarray:
    """A random colour that can be told from the ground it lies on."""
    while True:
        colour = rng.uniform(0, 255, 3)
        if np.abs(colour - ground).max() > 60:
            return colour
