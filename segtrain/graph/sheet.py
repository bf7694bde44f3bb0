"""A contact sheet: samples with their masks over them, and the classes' colours."""

from __future__ import annotations

from typing import List, Sequence

import cv2
import numpy as np

from segtrain.data.dataset import Dataset, palette
from segtrain.data.loader import Recipe
from segtrain.errors import UserError

_HEIGHT, _WIDTH, _COLUMNS = 180, 240, 6


def sheet(datasets: Sequence[Dataset], each: int = 12) -> bytes:
    """A PNG of up to `each` samples per split, evenly taken: the image, and the mask over it.

    Pixels that are ignored are white; samples that can't be read are left out.
    """
    rows: List[np.ndarray] = []
    for dataset in datasets:
        found = (_tile(dataset, index) for index in some(dataset, each))
        tiles = [tile for tile in found if tile is not None]
        for start in range(0, len(tiles), _COLUMNS):
            row = tiles[start : start + _COLUMNS]
            blank = np.full_like(row[0], 255)
            rows.append(np.hstack(row + [blank] * (_COLUMNS - len(row))))
    if not rows:
        raise UserError("--sheet: no sample could be read")
    return _png(rows, datasets[0].classes)


def augmented(recipe: Recipe, samples: int = 5, epochs: int = 5) -> bytes:
    """A PNG of samples as they are, and beside each the crops that its first epochs make of it."""
    rows = []
    for index in some(recipe.dataset, samples):
        image, mask = recipe.dataset.read(index)
        tiles = [_over(image, mask, recipe.dataset.ignore)]
        for epoch in range(epochs):
            crop, ids = recipe.make(epoch, index)
            tiles.append(_over(np.moveaxis(crop, 0, -1), ids, recipe.dataset.ignore))
        named = [recipe.dataset.ids[index], *[f"epoch {epoch + 1}" for epoch in range(epochs)]]
        rows.append(np.hstack([_titled(_fit(tile), name) for tile, name in zip(tiles, named)]))
    return _png(rows, recipe.dataset.classes)


def batch(images: np.ndarray, masks: np.ndarray, dataset: Dataset) -> bytes:
    """A PNG of a training batch, (N, C, H, W) and (N, H, W): each crop, and its mask over it."""
    rows = []
    for image, mask in zip(np.moveaxis(images, 1, -1), masks):
        rows.append(np.hstack([_fit(shown(image)), _fit(_over(image, mask, dataset.ignore))]))
    return _png(rows, dataset.classes)


def _png(rows: Sequence[np.ndarray], classes: Sequence[str]) -> bytes:
    """Rows of tiles (H, W, 3) RGB, the classes' colours below them."""
    page = np.vstack([*rows, _legend(classes, rows[0].shape[1])])
    return cv2.imencode(".png", page[:, :, ::-1])[1].tobytes()


def compared(image: np.ndarray, masks: Sequence[np.ndarray], ignore: int, side: int) -> np.ndarray:
    """The image (H, W, C), and beside it the image with each of the masks (H, W) over it.

    (H, W, 3) uint8 RGB, made smaller where the image is longer than `side`.
    """
    tiles = [shown(image), *[_over(image, mask, ignore) for mask in masks]]
    scale = min(1.0, side / max(image.shape[:2]))
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    return np.hstack([cv2.resize(tile, size, interpolation=cv2.INTER_AREA) for tile in tiles])


def some(dataset: Dataset, count: int) -> List[int]:
    """Up to `count` indices, evenly taken, the first and the last among them."""
    last = len(dataset.ids) - 1
    return sorted(set(np.linspace(0, last, min(count, last + 1)).round().astype(int).tolist()))


def _tile(dataset: Dataset, index: int) -> np.ndarray | None:
    try:
        image, mask = dataset.read(index)
    except UserError:
        return None
    both = np.hstack([_fit(shown(image)), _fit(_over(image, mask, dataset.ignore))])
    return _titled(both, dataset.ids[index][-60:])


def _over(image: np.ndarray, mask: np.ndarray, ignore: int) -> np.ndarray:
    """The image with its mask over it, ignored pixels white."""
    colours = palette()
    colours[ignore] = 255
    return cv2.addWeighted(shown(image), 0.45, colours[mask], 0.55, 0)


def _titled(picture: np.ndarray, name: str) -> np.ndarray:
    framed = cv2.copyMakeBorder(picture, 20, 2, 2, 2, cv2.BORDER_CONSTANT, value=(255, 255, 255))
    return _text(framed, name, 4, 14)


def shown(image: np.ndarray) -> np.ndarray:
    """The image as (H, W, 3) uint8: the first three channels, or the first alone as grey."""
    chosen = image[..., :3] if image.shape[-1] >= 3 else image[..., :1].repeat(3, axis=-1)
    if chosen.dtype == np.uint8:
        return chosen
    low, high = np.percentile(chosen, [1, 99])
    return np.clip(255 * (chosen - low) / max(high - low, 1e-12), 0, 255).astype(np.uint8)


def _fit(picture: np.ndarray) -> np.ndarray:
    """The picture within a tile, as large as it goes."""
    scale = min(_HEIGHT / picture.shape[0], _WIDTH / picture.shape[1])
    size = max(1, int(picture.shape[1] * scale)), max(1, int(picture.shape[0] * scale))
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    tile = np.full((_HEIGHT, _WIDTH, 3), 235, np.uint8)
    tile[: size[1], : size[0]] = small
    return tile


def _legend(classes: Sequence[str], width: int) -> np.ndarray:
    per_row = max(1, width // 180)
    lines = -(-len(classes) // per_row)
    legend = np.full((8 + 20 * lines, width, 3), 255, np.uint8)
    for i, name in enumerate(classes):
        x, y = 6 + 180 * (i % per_row), 6 + 20 * (i // per_row)
        legend[y : y + 14, x : x + 22] = palette()[i]
        _text(legend, f"{i} {name}"[:22], x + 28, y + 12)
    return legend


def _text(picture: np.ndarray, text: str, x: int, y: int) -> np.ndarray:
    plain = text.encode("ascii", "replace").decode()
    return cv2.putText(picture, plain, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
