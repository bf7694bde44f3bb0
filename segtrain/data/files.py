"""Images and masks as files: decoding, with an error that names the file and what is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from segtrain import infer
from segtrain.errors import UserError

IMAGES = infer.ENDINGS
MASKS = IMAGES - {".jpg", ".jpeg"}

_INDEXED = {"1", "L", "P", "I", "I;16", "I;16B", "I;16L"}


def read_image(path: Path) -> np.ndarray:
    """An image as (H, W, 3) uint8 RGB, turned as its EXIF orientation says."""
    try:
        return infer.read(path)
    except infer.InputError as error:
        raise UserError(str(error)) from None


def read_mask(path: Path) -> np.ndarray:
    """The raw ids of an index, palette, grey or 1-bit mask, (H, W) of an integer type."""
    try:
        with Image.open(path) as file:
            mask = np.asarray(file)
            mode = file.mode
    except UnidentifiedImageError:
        raise UserError(f"{path}: not an image that can be decoded") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: {error}") from None
    if mode in _INDEXED:
        return mask.astype(np.uint8) if mask.dtype == bool else mask
    if mode in {"RGB", "RGBA", "LA"} and _is_grey(mask, mode):
        return mask[..., 0]
    raise UserError(
        f"{path}: a colour mask ({mode}); segtrain reads class ids: save it as an index, "
        "palette or grey image in which each pixel's value is its class"
    )


def _is_grey(mask: np.ndarray, mode: str) -> bool:
    colours = mask[..., :1] if mode == "LA" else mask[..., :3]
    return bool((colours == colours[..., :1]).all())
