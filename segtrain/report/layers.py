"""An image, its truth, its prediction and its errors as WebP layers that a page puts over it."""

from __future__ import annotations

import base64
from typing import List, NamedTuple, Sequence

import cv2
import numpy as np

from segtrain.data.dataset import Sample
from segtrain.graph.sheet import shown

SIDES = (640, 480, 320, 240, 160)  # of a picture's longer side, in pixels
BUDGET = 3_200_000  # bytes of all pictures: base64 makes 4.3 MB of them
ERROR = (230, 0, 80)
_TRIED = 6  # pictures that tell how much all of them will take
_STRIPE = 4  # pixels of a light and of a dark stripe where the truth is void


class Layers(NamedTuple):
    """The layers as data URIs; truth, predicted and errors are transparent where they say nothing."""

    width: int
    height: int
    image: str
    truth: str
    predicted: str
    errors: str


class Shot(NamedTuple):
    """A picture (H, W, 3) uint8 RGB, and class ids (H, W) of the truth and of the prediction."""

    picture: np.ndarray
    truth: np.ndarray
    predicted: np.ndarray

    def fit(self, side: int) -> Shot:
        """As large as fits into a square of that side, never larger than it is."""
        height, width = self.truth.shape
        scale = min(1.0, side / max(height, width))
        size = max(1, round(width * scale)), max(1, round(height * scale))
        return Shot(
            cv2.resize(self.picture, size, interpolation=cv2.INTER_AREA),
            cv2.resize(self.truth, size, interpolation=cv2.INTER_NEAREST),
            cv2.resize(self.predicted, size, interpolation=cv2.INTER_NEAREST),
        )


class Album:
    """Pictures that take `BUDGET` bytes together, or the smallest of `SIDES`."""

    def __init__(self, classes: int, ignore: int, palette: np.ndarray):
        self._colours = np.zeros((256, 4), np.uint8)
        self._colours[:classes, :3] = palette[:classes]
        self._colours[:classes, 3] = 255
        self._ignore = ignore
        self._shots: List[Shot] = []

    def add(self, sample: Sample, predicted: np.ndarray) -> None:
        """Keep a sample and its predicted class ids (H, W)."""
        self._shots.append(Shot(shown(sample.image), sample.mask, predicted).fit(SIDES[0]))

    def pictures(self) -> list[Layers]:
        """The layers of each, in the order they came."""
        count, drawn = len(self._shots), []
        some = self._shots[:: -(-count // _TRIED) or 1]
        for side in SIDES:
            tried = [self._layers(shot.fit(side)) for shot in some]
            if side > SIDES[-1] and _size(tried) * count > BUDGET * len(some):
                continue
            drawn = [self._layers(shot.fit(side)) for shot in self._shots]
            if _size(drawn) <= BUDGET:
                break
        return drawn

    def _layers(self, shot: Shot) -> Layers:
        height, width = shot.truth.shape
        void = shot.truth == self._ignore
        errors = np.zeros((height, width, 4), np.uint8)
        errors[(shot.truth != shot.predicted) & ~void] = (*ERROR, 255)
        truth = self._colours[shot.truth]
        for layer in (truth, errors):
            layer[void] = _stripes(height, width)[void]
        parts = (truth, self._colours[shot.predicted], errors)
        return Layers(width, height, webp(shot.picture, 80), *(webp(part, 101) for part in parts))


def _size(drawn: Sequence[Layers]) -> float:
    """The bytes of the pictures before base64."""
    return sum(len(uri) for one in drawn for uri in one[2:]) * 3 / 4


def _stripes(height: int, width: int) -> np.ndarray:
    """Diagonal stripes (H, W, 4), light and dark: no class looks like this."""
    rows, columns = np.indices((height, width))
    light = (rows + columns) // _STRIPE % 2 == 0
    return np.where(light[..., None], (250, 250, 250, 255), (70, 70, 70, 255)).astype(np.uint8)


def webp(picture: np.ndarray, quality: int) -> str:
    """A picture (H, W, 3 or 4) uint8 RGB as a data URI; a quality above 100 loses nothing."""
    code = cv2.COLOR_RGB2BGR if picture.shape[2] == 3 else cv2.COLOR_RGBA2BGRA
    options = [cv2.IMWRITE_WEBP_QUALITY, quality]
    content = cv2.imencode(".webp", cv2.cvtColor(picture, code), options)[1].tobytes()
    return f"data:image/webp;base64,{base64.b64encode(content).decode()}"
