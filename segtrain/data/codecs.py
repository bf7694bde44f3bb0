"""PNG and JPEG files of the plainest kinds, decoded in half the time that OpenCV and Pillow need.

Most datasets hold nothing else, and decoding is most of what their reading takes. The pixels are the
same; what is of another kind, or damaged, is left to who reads it slowly, and says what is wrong.
"""

from __future__ import annotations

import struct
from typing import List, Optional, Tuple, Union
from zlib import adler32

import imagecodecs
import numpy as np

from segtrain.prediction import pictures

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEADER = struct.Struct(">IIBBBBB")  # IHDR: width, height, depth, colour type, three methods
_GREY, _RGB, _PALETTE = 0, 2, 3  # colour types
_STORED = 65535  # bytes that a block of deflate holds at most when it isn't compressed
_MOST = 2**27  # bytes of pixels; larger ones aren't held in memory several times


def image(content: bytes) -> Optional[np.ndarray]:
    """The pixels (H, W, 3) uint8, RGB, of an upright picture file in colour; None for any other."""
    if content[:2] == b"\xff\xd8":
        return _jpeg(content)
    return _png(content, (_RGB,))


def values(content: bytes) -> Optional[np.ndarray]:
    """The values (H, W) uint8 of a PNG of 8 bits, grey or places in its palette; None for any other."""
    return _png(content, (_GREY, _PALETTE))


def _jpeg(content: bytes) -> Optional[np.ndarray]:
    if pictures.cut_off(content) or not _plain(content):
        return None
    try:
        found = imagecodecs.jpeg8_decode(content)
    except Exception:  # whatever the codec raises
        return None
    return found if found.shape[2:] == (3,) else None


def _plain(content: bytes) -> bool:
    """Whether a JPEG, not too large, has three channels of 8 bits, and isn't turned by its EXIF data."""
    place, upright = 2, True
    while content[place : place + 1] == b"\xff" and place + 10 <= len(content):
        marker, length = content[place + 1], int.from_bytes(content[place + 2 : place + 4], "big")
        if marker in (0xC0, 0xC1, 0xC2):  # baseline, extended or progressive: the frame's header
            depth, height, width, channels = struct.unpack_from(">BHHB", content, place + 4)
            return upright and depth == 8 and channels == 3 and height * width * channels <= _MOST
        if marker == 0xDA:  # the scan itself: no header that is known came before
            return False
        if marker == 0xE1 and content[place + 4 : place + 10] == b"Exif\0\0":
            upright = pictures.upright(content[place + 10 : place + 2 + length])
        place += 2 + length
    return False


def _png(content: bytes, kinds: Tuple[int, ...]) -> Optional[np.ndarray]:
    """Inflated by libdeflate, then handed to libpng for the rest as a PNG that isn't compressed."""
    try:
        header, data = _parts(content)
        width, height, depth, kind, *methods = header
        if depth != 8 or kind not in kinds or any(methods):
            return None
        size = height * (1 + width * (3 if kind == _RGB else 1))
        rows = bytes(imagecodecs.deflate_decode(data, out=size)) if size <= _MOST else b""
        if len(rows) != size:
            return None
        # a palette's places are decoded as if they were grey values
        plain = _HEADER.pack(width, height, 8, _RGB if kind == _RGB else _GREY, 0, 0, 0)
        return imagecodecs.png_decode(_file(plain, rows))
    except Exception:  # whatever the codecs and struct raise
        return None


def _parts(content: bytes) -> Tuple[Tuple[int, ...], bytes]:
    """A PNG's header and its compressed rows; ValueError where it has what changes its pixels."""
    header, data, place = b"", [], len(_SIGNATURE)
    if content[:place] != _SIGNATURE:
        raise ValueError("not a PNG")
    while place < len(content):
        length, name = struct.unpack_from(">I4s", content, place)
        inside = content[place + 8 : place + 8 + length]
        if name in (b"tRNS", b"eXIf", b"acTL"):  # transparent, turned or animated
            raise ValueError(name)
        if name == b"IHDR":
            header = inside
        elif name == b"IDAT":
            data.append(inside)
        elif name == b"IEND":
            return _HEADER.unpack(header), b"".join(data)
        place += 12 + length
    raise ValueError("cut off")


def _file(header: bytes, rows: bytes) -> bytes:
    """A PNG whose rows are stored as they are."""
    parts: List[Union[bytes, memoryview]] = [b"IDAT\x78\x01"]
    for start in range(0, len(rows), _STORED):
        part = memoryview(rows)[start : start + _STORED]
        last = start + _STORED >= len(rows)
        parts += [struct.pack("<BHH", last, len(part), len(part) ^ 0xFFFF), part]
    parts.append(struct.pack(">I", adler32(rows)))
    bodies = [b"IHDR" + header, b"".join(parts), b"IEND"]
    return _SIGNATURE + b"".join(part for body in bodies for part in _chunk(body))


def _chunk(body: bytes) -> Tuple[bytes, ...]:
    """A chunk of a PNG, whose body begins with its name."""
    return struct.pack(">I", len(body) - 4), body, struct.pack(">I", imagecodecs.zlib_crc32(body))
