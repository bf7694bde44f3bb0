"""Images and masks as files: decoding, with an error that names the file and what is wrong."""

from __future__ import annotations

import io
import struct
from mmap import mmap
from pathlib import Path
from typing import Any, Optional, Union

import numpy as np
import tifffile
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError
from scipy.io import loadmat

from segtrain.data import codecs
from segtrain.errors import UserError, one_line
from segtrain.prediction import pictures
from segtrain.prediction.pictures import InputError, Kind

IMAGES = pictures.ENDINGS
JPEG = {".jpg", ".jpeg"}
MASKS = IMAGES | {".gif", ".mat"}

_INDEXED = {"1", "L", "P", "I", "I;16", "I;16B", "I;16L"}
_COLOUR = {"RGB", "RGBA", "LA"}
_ORIENTATION = 274  # the EXIF tag
_NO_COLOURS = {0: "grey values of which 0 is white (miniswhite)", 3: "places in a palette"}


def read_image(path: Path, kind: Kind = Kind(), content: Union[bytes, mmap, None] = None) -> np.ndarray:
    """A dataset's image, as `decode` gives it; UserError says what to set, or what is wrong."""
    try:
        return decode(path, kind, content)
    except pictures.KindError as error:
        found = error.found
        raise UserError(
            f"{error}: set data.channels={found.channels} and data.depth={found.depth}, or convert it"
        ) from None
    except pictures.InputError as error:
        raise UserError(str(error)) from None


def decode(path: Path, kind: Kind, content: Union[bytes, mmap, None] = None) -> np.ndarray:
    """An image (H, W, C) of the kind: uint8 of 8 bits, float32 with the file's values otherwise.

    Three channels are RGB, with grey repeated and alpha left out; one is grey; any other number
    must be the file's. Pictures of one or three channels are turned as EXIF says. content: the
    file's, where it was read already. InputError names a file that can't be decoded or is of
    another kind.
    """
    content = pictures.contents(path) if content is None else content
    plain = codecs.image(content) if kind == pictures.RGB and isinstance(content, bytes) else None
    if plain is not None:
        return plain
    if pictures.misread(content):
        return pictures.checked(_bands(path, content, kind.channels), kind, path)
    return pictures.read(path, kind, content)


def _bands(path: Path, content: Union[bytes, mmap], channels: int) -> np.ndarray:
    """A TIFF whose bands OpenCV would misread, (H, W, C); the pages of a stack are its bands."""
    try:
        with tifffile.TiffFile(path if isinstance(content, mmap) else io.BytesIO(content)) as file:
            series, page = file.series[0], file.pages.first
            pixels, axes = series.asarray(), series.axes
            meaning = page.photometric
            turned = int(page.tags.valueof(_ORIENTATION, default=1)) != 1
    except Exception as error:  # tifffile raises what its decoders raise
        text = one_line(error, 120) or type(error).__name__
        raise InputError(f"{path}: {text}: save it as a TIFF without compression") from None
    if meaning in _NO_COLOURS:
        raise InputError(f"{path} holds {_NO_COLOURS[meaning]}: save it as RGB or grey")
    if turned:
        raise InputError(f"{path} is stored turned (TIFF tag Orientation): save it upright")
    if "Y" not in axes or "X" not in axes or len(axes) > 3:
        raise InputError(f"{path} has the axes {axes}; an image has height, width and bands")
    if not pixels.size or pixels.ndim != len(axes):
        raise InputError(f"{path}: the file is damaged: it holds {pixels.size} of its pixels")
    pixels = np.moveaxis(pixels, [axes.index("Y"), axes.index("X")], [0, 1])
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    if channels == 3 and pixels.shape[2] == 1:
        return np.repeat(pixels, 3, axis=2)
    colour = meaning == tifffile.PHOTOMETRIC.RGB
    return pixels[..., :3] if channels == 3 and colour and pixels.shape[2] == 4 else pixels


def read_mask(path: Path, colours: bool = False, variable: Optional[str] = None) -> np.ndarray:
    """A mask's raw ids (H, W) of an integer type, or its RGB colours (H, W, 3) uint8.

    variable: the one of a .mat file. UserError names a file that can't be decoded or holds
    something else.
    """
    ending = path.suffix.lower()
    if ending in (".npy", ".mat") and colours:
        raise UserError(f"{path} holds ids, and data.palette is for masks of colours")
    try:
        if ending in (".npy", ".mat"):
            array = pictures.array(path) if ending == ".npy" else _variable(path, variable)
            return _whole(array, path)
        content = pictures.contents(path) if ending == ".png" and not colours else None
        plain = codecs.values(content) if isinstance(content, bytes) else None
        if plain is not None:
            return plain
        ImageFile.LOAD_TRUNCATED_IMAGES = False  # gluoncv.data sets it, for the whole process
        with Image.open(path) as file:
            return _pixels(file, path, colours)
    except InputError as error:
        raise UserError(str(error)) from None
    except (UnidentifiedImageError, EOFError, LookupError, struct.error):  # of Pillow's decoders
        raise UserError(f"{path}: not an image that can be decoded") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: {error}") from None


def _pixels(file: Any, path: Path, colours: bool) -> np.ndarray:
    if getattr(file, "n_frames", 1) > 1:
        raise UserError(f"{path} holds {file.n_frames} pictures, and a mask is one: keep one of them")
    if file.getexif().get(_ORIENTATION, 1) != 1:
        file = ImageOps.exif_transpose(file)
    mode = file.mode
    if colours and mode in _COLOUR | {"1", "L", "P"}:
        return np.asarray(file.convert("RGB"))
    mask = np.asarray(file)
    if mode in _INDEXED and not colours:
        return mask.astype(np.uint8) if mask.dtype == bool else mask
    if mode == "F":
        return _whole(mask, path)
    if mode in _COLOUR and _is_grey(mask, mode):
        return mask[..., 0]
    raise UserError(
        f"{path}: a colour mask ({mode}): set data.palette={{CLASS: [red, green, blue], ...}} "
        "(data.name=folder or list), or save it as an index, palette or grey image in which each "
        "pixel's value is its class"
    )


def _is_grey(mask: np.ndarray, mode: str) -> bool:
    colours = mask[..., :1] if mode == "LA" else mask[..., :3]
    return bool((colours == colours[..., :1]).all())


def _variable(path: Path, name: Optional[str]) -> np.ndarray:
    """The named variable of a .mat file, or the only one of two dimensions and whole numbers."""
    try:
        held = {k: v for k, v in loadmat(path).items() if not k.startswith("__")}
    except NotImplementedError:
        raise UserError(f"{path} is of MATLAB's format 7.3: save it with -v7") from None
    except Exception as error:  # loadmat raises what struct, zlib and its own parsers raise
        raise UserError(f"{path}: not a .mat file that can be read ({error})") from None
    fitting = [k for k, v in held.items() if _is_whole(v) and (v.shape != (1, 1) or len(held) == 1)]
    chosen = [name] if name else fitting
    if len(chosen) == 1 and chosen[0] in held:
        return held[chosen[0]]
    what = f"no variable {name!r}" if name else f"{len(fitting)} variables that may be the mask"
    raise UserError(f"{path} has {what}: set data.variable to one of {', '.join(sorted(held))}")


def _is_whole(array: Any) -> bool:
    kind = array.dtype.kind if isinstance(array, np.ndarray) and array.ndim == 2 else ""
    return kind in ("b", "i", "u") or (kind == "f" and bool((array == np.floor(array)).all()))


def _whole(mask: np.ndarray, path: Path) -> np.ndarray:
    """The mask as integers; UserError where it isn't an array (H, W) of whole numbers."""
    if not _is_whole(mask):
        raise UserError(f"{path} holds {mask.dtype} {mask.shape}; a mask is (H, W) whole numbers")
    if mask.dtype.kind in "iu" and mask.dtype.itemsize < 8:
        return mask
    return mask.clip(-1, 2**31 - 1).astype(np.uint8 if mask.dtype == bool else np.int32)
