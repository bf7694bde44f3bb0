"""Samples in one RecordIO file per split, as `segtrain pack` writes them: any number of small files.

In FOLDER are ``dataset.json`` (classes and the like) and of each split ``train.rec`` and
``train.idx``, which MXIndexedRecordIO wrote and any tool of MXNet's reads, and ``train.txt``, a name a
line. A record's payload is the image's file as it was, then the mask's class ids as a grey PNG;
the header's `id2` is where the one ends.

Records are read here without MXNet, which would cost each loader process 180 MB and two seconds, and
whose handles one thread must not seek while another reads.
"""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Iterator, List, Literal, Sequence, Tuple, Union, overload

import cv2
import numpy as np

from segtrain.data.dataset import Sample
from segtrain.data.files import read_image
from segtrain.data.labels import check
from segtrain.data.pairs import check_kind, check_size, dtype, open_root
from segtrain.errors import UserError, nearest
from segtrain.prediction import pictures
from segtrain.prediction.infer import Kind

ABOUT = "dataset.json"
FORMAT = 1
HEADER = struct.Struct("<IfQQ")  # MXNet's IRHeader: flag, label, id, id2
_MAGIC = struct.pack("<I", 0xCED7230A)
_PART = struct.Struct("<4sI")  # magic; in 3 bits which part of a record, in 29 its length


class Names(Sequence[str]):
    """The lines of a file, each made text when it is asked for: a million take 8 MB and their bytes."""

    def __init__(self, path: Path):
        self._content = path.read_bytes()
        ends = np.flatnonzero(np.frombuffer(self._content, np.uint8) == ord("\n"))
        self._ends = np.append(-1, ends).astype(np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> List[str]: ...
    def __getitem__(self, index: Union[int, slice]) -> Union[str, List[str]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        return os.fsdecode(self._content[self._ends[place] + 1 : self._ends[place + 1]])

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(len(self)))


class Packed:
    """The samples of a split's record file; `about` is what dataset.json says."""

    problems: List[str] = []

    def __init__(self, home: Path, split: str, about: dict):
        self.classes, self.ignore = about["classes"], about["ignore"]
        self._kind = Kind(about["channels"], about["depth"])
        self.dtype = dtype(self._kind)
        self._arguments = home, split, about
        self._path = home / f"{split}.rec"
        try:
            self._file = open(self._path, "rb", buffering=0)  # noqa: SIM115  open as long as this is
            self.ids = Names(home / f"{split}.txt")
            starts = _starts(home / f"{split}.idx")
        except OSError as error:
            raise UserError(f"{error.filename}: {error.strerror}: {_AGAIN}") from None
        size = os.fstat(self._file.fileno()).st_size
        self._bounds = np.append(starts, size)
        if (
            not len(self.ids) == len(starts) == about["splits"][split]
            or (np.diff(self._bounds) < 8).any()
        ):
            raise UserError(f"{self._path} and the files beside it don't belong together: {_AGAIN}")

    def __reduce__(self) -> tuple:
        return Packed, self._arguments

    def name(self, index: int) -> str:
        return f"{self._path}: {self.ids[index]}"

    def files(self, index: int) -> Tuple[Path, ...]:
        return (self._path,)

    def read(self, index: int) -> Sample:
        start, stop = self._bounds[index : index + 2].tolist()
        name = Path(self.name(index))
        content = _joined(os.pread(self._file.fileno(), stop - start, start), name)
        _, _, _, end = HEADER.unpack_from(content)
        image = read_image(name, self._kind, content[HEADER.size : HEADER.size + end])
        mask = pictures.decode(content[HEADER.size + end :], Kind(channels=1))
        if mask is None:
            raise _damaged(name)
        mask = mask[..., 0]
        check_size(image, name, mask, name)
        return Sample(image, mask)


def build(
    split: str,
    *,
    root: Path,
    channels: int = 3,
    depth: Literal[8, 16, 32] = 8,
) -> Packed:
    """The named split.

    root: the folder that `segtrain pack` wrote; channels, depth: of the images in it, as in `folder`.
    """
    about = _about(open_root(root) / ABOUT)
    if split not in about["splits"]:
        raise UserError(f"no split {split!r} in {root}; {nearest(split, about['splits'])}")
    kind = Kind(about["channels"], about["depth"])
    if kind != Kind(channels, depth):
        raise UserError(
            f"{root} holds images that are {kind}: set data.channels={kind.channels}, "
            f"data.depth={kind.depth} and model.in_channels={kind.channels}"
        )
    return Packed(root, split, about)


def record(image: bytes, mask: np.ndarray) -> Tuple[bytes, int]:
    """The payload of a record: an image's file and its mask (H, W) uint8; where the former ends."""
    return image + cv2.imencode(".png", mask)[1].tobytes(), len(image)


_AGAIN = "pack it again with segtrain pack"


def _about(path: Path) -> dict:
    """What dataset.json says; UserError where it isn't as `segtrain pack` writes it."""
    try:
        about: dict = json.loads(path.read_text(encoding="utf-8"))
        check(about["classes"], about["ignore"])
        check_kind(Kind(about["channels"], about["depth"]))
        known = about["format"] == FORMAT and all(isinstance(n, int) for n in about["splits"].values())
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}: data.root is a folder of segtrain pack's") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        known = False
    if not known:
        raise UserError(f"{path}: not as this version of segtrain pack writes it: {_AGAIN}")
    return about


def _starts(path: Path) -> np.ndarray:
    """Where each record begins, (N,) int64, from MXNet's index: a number and a place on each line."""
    numbers = np.fromstring(path.read_bytes(), np.int64, sep=" ")  # stops at what is no number
    keys, starts = numbers[::2], numbers[1::2]
    if not np.array_equal(keys, np.arange(len(starts))):
        raise UserError(f"{path} is damaged: {_AGAIN}")
    return starts


def _joined(stored: bytes, name: Path) -> bytes:
    """A record from its parts: where its content holds the magic number it is cut, and that left out."""
    parts, place = [], 0
    while place + _PART.size <= len(stored):
        magic, word = _PART.unpack_from(stored, place)
        length, place = word & (1 << 29) - 1, place + _PART.size
        parts.append(stored[place : place + length])
        if magic != _MAGIC or len(parts[-1]) < length:
            break
        place += -(-length // 4) * 4
        if word >> 29 in (0, 3):  # whole, or the last of its parts
            content = _MAGIC.join(parts)
            if len(content) > HEADER.size:
                return content
            break
    raise _damaged(name)


def _damaged(name: Path) -> UserError:
    return UserError(f"{name}: the record is damaged: {_AGAIN}")
