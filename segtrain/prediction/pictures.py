"""Pictures as files: any kind of image to an array, and masks, overlays and maps to PNGs.

It needs numpy and opencv alone. A PNG is written row by row, because a picture may be too large to
be held whole beside the image that it is of.
"""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from contextlib import contextmanager
from io import BytesIO
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any, BinaryIO, Callable, ContextManager, Iterator, NamedTuple, Sequence

import cv2
import numpy as np

ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".npy"}
DEPTHS = {"uint8": 8, "uint16": 16, "int16": 16, "float32": 32, "float64": 32}
_COMPRESSIONS = {1, 2, 3, 4, 5, 7, 8, 32773, 32946}  # of TIFFs, that OpenCV reads: none, CCITT, LZW, ...
LARGE = 2**26  # bytes; a larger file isn't held in memory beside what is decoded from it

File = ContextManager[Callable[[Any], None]]  # one in the making: it gives what adds a part of an image


class InputError(Exception):
    """An input that can't be used; its text says which and why."""


class Kind(NamedTuple):
    """The images that a network takes: channels (3: RGB, 1: grey) and bits of a value.

    depth: 8, 16, or 32 for floating point.
    """

    channels: int = 3
    depth: int = 8

    def __str__(self) -> str:
        values = "floating-point" if self.depth == 32 else f"{self.depth}-bit"
        return f"{values} with {self.channels} channel{'s' * (self.channels != 1)}"


RGB = Kind()


class KindError(InputError):
    """An image of another kind than wanted; `found` is its own."""

    def __init__(self, path: Path, found: Kind, wanted: Kind):
        super().__init__(f"{path} is {found}, and {wanted} is wanted")
        self.found = found


def decode(content: bytes | mmap, kind: Kind = RGB, path: Path | None = None) -> np.ndarray | None:
    """A picture file's content as (H, W, C), RGB or RGBA, of its own type; None if it is damaged.

    One or three channels: the picture as grey or RGB whatever it is, EXIF orientation applied.
    Any other number: as many as there are, as they lie. A file may be of another depth than `kind`.
    path: the file, for OpenCV to read a little at a time.
    """
    if not len(content):
        return None
    pixels = np.frombuffer(content, np.uint8)
    flags = {1: cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH, 3: cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH}
    # OpenCV turns no floats from grey to colour, or back
    flag = cv2.IMREAD_UNCHANGED if kind.depth == 32 else flags.get(kind.channels, cv2.IMREAD_UNCHANGED)
    try:
        for way in (flag, cv2.IMREAD_UNCHANGED):  # the latter for floats, when none are wanted
            image = cv2.imread(str(path), way) if path else cv2.imdecode(pixels, way)
            if image is not None:
                break
    except cv2.error:  # more pixels than OpenCV is willing to decode
        return None
    return None if image is None or cut_off(content) else _ordered(image, kind.channels)


def cut_off(content: bytes | mmap) -> bool:
    """Whether it is a JPEG without its end, of which OpenCV makes grey what is missing."""
    return content[:2] == b"\xff\xd8" and content.find(b"\xff\xd9", content.rfind(b"\xff\xda")) < 0


def _ordered(image: np.ndarray, channels: int) -> np.ndarray:
    """A picture as OpenCV has it, BGR or BGRA, as (H, W, C) in the order of RGB."""
    found = 1 if image.ndim == 2 else image.shape[2]
    if channels == 1 and found > 1:
        grey = image[..., :3] @ np.array([0.114, 0.587, 0.299])
        image = (grey if image.dtype.kind == "f" else np.rint(grey)).astype(image.dtype)
    elif channels == 3 and found == 1:
        image = np.repeat(image[..., None], 3, axis=2)
    elif found >= 3:
        kept = 3 if channels == 3 else found
        ordered = image if kept == found else np.empty((*image.shape[:2], kept), image.dtype)
        for top in range(0, len(image), 256):  # in place, for a picture too large to be there twice
            planes = cv2.split(image[top : top + 256])
            cv2.merge([planes[i] for i in (2, 1, 0, 3)[:kept]], dst=ordered[top : top + 256])
        image = ordered
    return image.reshape(*image.shape[:2], -1)


def misread(content: bytes | mmap) -> bool:
    """Whether a file is a TIFF with bands, pages or a compression that OpenCV would misread, or drop.

    It reads one page of grey, RGB, or RGBA of 16 bits; 8-bit colours it multiplies with alpha, and
    those that it can't decompress it gives out as black.
    """
    if content[:4] in (b"II+\0", b"MM\0+"):  # BigTIFF
        return True
    if content[:4] not in (b"II*\0", b"MM\0*"):
        return False
    try:
        tags, pages = _tags(content)
    except struct.error:  # cut off, as OpenCV will say
        return False
    samples, bits = tags.get(277, 1), tags.get(258, 1)  # SamplesPerPixel, BitsPerSample
    rgb = tags.get(262) in (2, 6, 32845)  # PhotometricInterpretation: RGB, YCbCr, LogLuv
    apart = tags.get(284) == 2  # PlanarConfiguration
    bands = samples > 4 or not rgb or apart or (samples == 4 and bits == 8)
    return pages > 1 or (samples > 1 and bands) or tags.get(259, 1) not in _COMPRESSIONS


def upright(content: bytes) -> bool:
    """Whether EXIF data, which is a TIFF without a picture, says that the picture isn't turned."""
    try:
        return _tags(content)[0].get(274, 1) == 1  # Orientation
    except struct.error:
        return False


def _tags(content: bytes | mmap) -> tuple[dict[int, int], int]:
    """The whole numbers (the first, where there are several) of a TIFF's first page; 1 or 2 pages."""
    order = "<" if content[:2] == b"II" else ">"

    def number(code: str, place: int) -> int:
        return struct.unpack_from(order + code, content, place)[0]

    start, tags = number("I", 4), {}
    end = start + 2 + 12 * number("H", start)
    for entry in range(start + 2, end, 12):
        code = {1: "B", 3: "H", 4: "I"}.get(number("H", entry + 2))
        if code:
            inside = number("I", entry + 4) * struct.calcsize(code) <= 4
            tags[number("H", entry)] = number(code, entry + 8 if inside else number("I", entry + 8))
    return tags, 2 if number("I", end) else 1


def read(path: Path, kind: Kind = RGB, content: bytes | mmap | None = None) -> np.ndarray:
    """An image file (H, W, C) of the kind: uint8 of 8 bits, else float32 with the file's values.

    content: the file's, where it was read already. InputError if it can't be read or decoded, or
    is of another kind.
    """
    content = contents(path) if content is None else content
    if path.suffix.lower() == ".npy" or content[:6] == b"\x93NUMPY":
        return checked(array(path, content), kind, path)
    if misread(content):
        raise InputError(
            f"{path}: a TIFF of several pages or bands, or compressed in a way that OpenCV can't read: "
            "save it as .npy, an array (height, width, channels)"
        )
    image = decode(content, kind, path if isinstance(content, mmap) else None)
    if image is None:
        raise InputError(f"{path}: not an image that can be decoded (damaged or truncated?)")
    return checked(image, kind, path)


def contents(path: Path) -> bytes | mmap:
    """A file's bytes, of a large one where they lie; InputError if it can't be read."""
    try:
        with path.open("rb") as file:
            large = os.fstat(file.fileno()).st_size > LARGE
            return mmap(file.fileno(), 0, access=ACCESS_READ) if large else file.read()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None


def array(path: Path, content: bytes | mmap | None = None) -> np.ndarray:
    """The array of a .npy file, or of its `content`; InputError if it can't be read."""
    try:
        file = BytesIO(content) if isinstance(content, bytes) else path
        found = np.load(file, allow_pickle=False)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    except (ValueError, SyntaxError, EOFError, zipfile.BadZipFile):
        found = None
    if not isinstance(found, np.ndarray):
        raise InputError(f"{path}: not a .npy array of numbers (damaged or truncated?)")
    return found


def checked(image: np.ndarray, kind: Kind, path: Path) -> np.ndarray:
    """The image (H, W, C) as a network takes it; KindError where it is of another kind."""
    depth = DEPTHS.get(image.dtype.name)
    if depth is None or image.ndim not in (2, 3) or not image.size:
        raise InputError(f"{path} holds {image.dtype} {image.shape}: not an image that can be used")
    image = image.reshape(*image.shape[:2], -1)
    found = Kind(image.shape[2], depth)
    if found != kind:
        raise KindError(path, found, kind)
    if depth == 8:
        return image
    image = image.astype(np.float32)
    if depth == 32 and not np.isfinite(image).all():
        raise InputError(f"{path} holds values that are not finite numbers")
    return image


class Png:
    """A PNG of height and width `size`, written to a file as its rows come.

    palette: (256, 3) uint8 RGB, for rows of ids (h, W); without it rows are grey (h, W) or RGB
    (h, W, 3), all of them uint8.
    """

    def __init__(self, file: BinaryIO, size: Sequence[int], palette: np.ndarray | None = None):
        self._file, self._size, self._palette = file, size, palette
        # ids repeat, so they are worth a search; of photographs only the filter takes much off
        indexed = palette is not None
        strategy = zlib.Z_DEFAULT_STRATEGY if indexed else zlib.Z_RLE
        self._deflate = zlib.compressobj(6 if indexed else 1, zlib.DEFLATED, 15, 8, strategy)
        self._begun = False

    def add(self, rows: np.ndarray) -> None:
        """The next rows, (h, W) or (h, W, 3) uint8."""
        if not self._begun:
            self._begin(rows.ndim)
        flat = rows.reshape(len(rows), -1)
        filtered = np.empty((len(flat), flat.shape[1] + 1), np.uint8)
        filtered[:, 0] = 0 if self._palette is not None else 1  # the filters None, and Sub
        filtered[:, 1:] = flat
        if self._palette is None:
            step = rows.shape[2] if rows.ndim == 3 else 1
            filtered[:, 1 + step :] -= flat[:, :-step]
        self._chunk(b"IDAT", self._deflate.compress(filtered.data))

    def close(self) -> None:
        """Write what is left."""
        self._chunk(b"IDAT", self._deflate.flush())
        self._chunk(b"IEND", b"")

    def _begin(self, dimensions: int) -> None:
        height, width = self._size
        colour = 3 if self._palette is not None else {2: 0, 3: 2}[dimensions]
        self._file.write(b"\x89PNG\r\n\x1a\n")
        self._chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0))
        if self._palette is not None:
            self._chunk(b"PLTE", self._palette.astype(np.uint8).tobytes())
        self._begun = True

    def _chunk(self, kind: bytes, data: bytes) -> None:
        if data or kind == b"IEND":
            self._file.write(struct.pack(">I", len(data)) + kind + data)
            self._file.write(struct.pack(">I", zlib.crc32(data, zlib.crc32(kind))))


@contextmanager
def picture(
    path: Path,
    size: Sequence[int],
    draw: Callable[[Any], np.ndarray],
    palette: np.ndarray | None = None,
) -> Iterator[Callable[[Any], None]]:
    """A PNG of what is found in an image, whole in the end or not there; gives what adds a part.

    draw: a part to its pixels (h, w) or (h, w, 3) uint8. A part has a `place`, its rows and columns;
    they come from top to bottom, and from left to right.
    """
    with aside(path) as other, other.open("wb") as file:
        png, band = Png(file, size, palette), np.empty(0, np.uint8)

        def add(part: Any) -> None:
            nonlocal band
            (rows, columns), pixels = part.place, draw(part)
            if columns.start == 0:
                band = np.empty((rows.stop - rows.start, size[1], *pixels.shape[2:]), np.uint8)
            band[:, columns] = pixels
            if columns.stop == size[1]:
                png.add(band)

        yield add
        png.close()


def encode(mask: np.ndarray, palette: np.ndarray) -> bytes:
    """A mask (H, W) uint8 as a palette PNG: the pixels are class ids, shown in their colours."""
    content = BytesIO()
    png = Png(content, mask.shape[:2], palette)
    png.add(mask)
    png.close()
    return content.getvalue()


def ids(content: bytes) -> np.ndarray:
    """The class ids (H, W) uint8 of a PNG that `encode` or `mask_picture` made."""
    width, height = struct.unpack_from(">II", content, 16)
    place, data = 8, []
    while place < len(content):
        length, kind = struct.unpack_from(">I4s", content, place)
        if kind == b"IDAT":
            data.append(content[place + 8 : place + 8 + length])
        place += length + 12
    rows = np.frombuffer(zlib.decompress(b"".join(data)), np.uint8)
    return rows.reshape(height, width + 1)[:, 1:]


def mask_picture(path: Path, size: Sequence[int], palette: np.ndarray) -> File:
    """A mask as a palette PNG, of parts that have `ids`."""
    return picture(path, size, lambda part: part.ids, palette)


def overlay_picture(path: Path, image: np.ndarray, palette: np.ndarray) -> File:
    """An image (H, W, C) with each class's colour half over it, of parts that have `ids`."""
    limits = None if image.dtype == np.uint8 else extremes(image)

    def draw(part: Any) -> np.ndarray:
        return mix(display(image[part.place], limits), part.ids, palette)

    return picture(path, image.shape[:2], draw)


def mix(picture: np.ndarray, mask: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """A picture (H, W, 3) uint8 with each class's colour half over it."""
    return cv2.addWeighted(picture, 0.5, palette[mask].astype(np.uint8), 0.5, 0)


def display(image: np.ndarray, limits: tuple[float, float] | None = None) -> np.ndarray:
    """An image of any kind as a picture (H, W, 3) uint8: its first three channels, or its first.

    limits: the values that become black and white where there are more than 8 bits; by default
    those of `extremes`.
    """
    picture = image[..., :3] if image.shape[2] >= 3 else np.repeat(image[..., :1], 3, axis=2)
    if picture.dtype == np.uint8:
        return np.ascontiguousarray(picture)
    low, high = limits or extremes(image)
    return (255 * np.clip((picture - low) / max(high - low, 1e-9), 0, 1)).astype(np.uint8)


def extremes(image: np.ndarray) -> tuple[float, float]:
    """The values below and above which lies a hundredth of an image's (H, W, C) first three channels.

    Of a very large image every few rows and columns are looked at.
    """
    step = max(1, int((image.shape[0] * image.shape[1] / 2**22) ** 0.5))
    low, high = np.percentile(image[::step, ::step, :3], (1, 99))
    return float(low), float(high)


@contextmanager
def aside(path: Path, ending: str = "") -> Iterator[Path]:
    """A file to write to beside `path`, renamed to it at the end, removed where there was an error.

    ending: that its name must have, for one that is told by it what to write.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    other = path.with_name(f".{path.name}.{os.getpid()}{ending}")
    try:
        yield other
        os.replace(other, path)
    except OSError as error:
        error.filename = error.filename or str(path)  # a write to a full disk doesn't say where that is
        raise
    finally:
        if other.exists():
            other.unlink()


def write(path: Path, content: bytes) -> None:
    """Write a file aside, flush it to the disk and rename it, so that it is never there in part.

    Into what is there and no file, like /dev/null or a pipe, it is written as it is.
    """
    if path.exists() and not path.is_file():
        path.write_bytes(content)  # to rename a file onto it would remove it
        return
    with aside(path) as other, other.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
