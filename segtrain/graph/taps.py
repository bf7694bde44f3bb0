"""Pictures of what a network sees inside: the feature maps at a tap."""

from __future__ import annotations

from math import ceil

import cv2
import mxnet as mx
import numpy as np

from segtrain.errors import UserError
from segtrain.trained import Trained

_TILE, _MOST = 160, 64


def values(trained: Trained, image: np.ndarray, name: str) -> np.ndarray:
    """The values (C, h, w) of the block `name` for an image (H, W, 3) uint8.

    UserError where there is no such block, or it has several outputs or other than maps.
    """
    if not hasattr(trained.net, "taps"):
        raise UserError("a bundle has no taps: give the run folder that it came from")
    pixels = mx.nd.array(image.transpose(2, 0, 1)[None], ctx=trained.context, dtype="uint8")
    try:
        found = trained.net.taps(pixels, [name])[0]
    except ValueError as error:
        raise UserError(f"--tap: {error}") from None
    if isinstance(found, (list, tuple)) or found.ndim != 4:
        raise UserError(f"--tap: {name} has no single stack of maps; name a block within it")
    return found[0].asnumpy()


def picture(maps: np.ndarray) -> bytes:
    """Maps (C, h, w) side by side as a PNG, each from its least (dark) to its greatest value.

    With the channel's number and these two values; the first 64 where there are more.
    """
    tiles = [_tile(channel, number) for number, channel in enumerate(maps[:_MOST])]
    columns = min(8, len(tiles))
    blank = np.full_like(tiles[0], 255)
    tiles += [blank] * (-len(tiles) % columns)
    rows = [np.hstack(tiles[i * columns : (i + 1) * columns]) for i in range(len(tiles) // columns)]
    return cv2.imencode(".png", np.vstack(rows))[1].tobytes()


def _tile(channel: np.ndarray, number: int) -> np.ndarray:
    low, high = float(channel.min()), float(channel.max())
    grey = np.uint8(255 * (channel - low) / max(high - low, 1e-12))
    scale = _TILE / max(channel.shape)
    size = max(1, ceil(channel.shape[1] * scale)), max(1, ceil(channel.shape[0] * scale))
    coloured = cv2.applyColorMap(
        cv2.resize(grey, size, interpolation=cv2.INTER_NEAREST), cv2.COLORMAP_VIRIDIS
    )
    framed = cv2.copyMakeBorder(coloured, 18, 2, 2, 2, cv2.BORDER_CONSTANT, value=(255, 255, 255))
    text = f"{number}: {low:.3g} to {high:.3g}"
    return cv2.putText(framed, text, (4, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.38, (0, 0, 0), 1, cv2.LINE_AA)
