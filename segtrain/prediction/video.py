"""Videos and cameras: frames in, frames out at the same rate; it needs numpy and opencv alone."""

from __future__ import annotations

import errno
import math
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any, Callable, Iterator

import cv2
import numpy as np

from .pictures import RGB, InputError, Kind, aside

ENDINGS = {".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv"}
CAMERA = "camera:"
DEFAULT_RATE = 25.0  # frames per second of a camera that doesn't tell


class Video:
    """The frames of a video file, or of a camera ("camera:0"), as images (H, W, C) uint8 of a kind.

    limit: take no more frames than this. live: whether it is a camera; rate: frames per second;
    count: of the frames, as far as is known; size: height and width. InputError where it can't be
    opened, or has no frame.
    """

    def __init__(self, source: str, kind: Kind = RGB, limit: int | None = None):
        if kind.depth != 8 or kind.channels not in (1, 3):
            raise InputError(f"{source}: frames are 8-bit pictures, and {kind} is wanted")
        self.source, self.live = source, is_camera(source)
        self._capture, self._grey, self._limit = _opened(source), kind.channels == 1, limit
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate = rate if math.isfinite(rate) and 0 < rate <= 1000 else DEFAULT_RATE
        told = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        counts = [n for n in (limit, None if self.live else told) if n and n > 0]
        self.count = min(counts, default=None)
        there, self._first = self._capture.read()
        if not there:
            raise InputError(f"{source}: no frame of it can be read")
        self.size = self._first.shape[:2]

    def __iter__(self) -> Iterator[np.ndarray]:
        """The frames, once; InputError at their end where the file told of more."""
        read = 0
        for frame in islice(chain([self._first], self._rest()), self._limit):
            read += 1
            code = cv2.COLOR_BGR2GRAY if self._grey else cv2.COLOR_BGR2RGB
            yield cv2.cvtColor(frame, code).reshape(*self.size, -1)
        missing = (self.count or 0) - read
        if missing > max(2, 0.01 * read):  # some files only estimate how long they are
            cure = f"--frames {read} takes those"
            raise InputError(f"{self.source}: {read} of {self.count} frames can be read; {cure}")

    def _rest(self) -> Iterator[np.ndarray]:
        try:
            while True:
                there, frame = self._capture.read()
                if not there:
                    return
                yield frame
        finally:
            self._capture.release()


@contextmanager
def film(path: Path, video: Video) -> Iterator[Callable[[np.ndarray], None]]:
    """A video file as large and as fast as `video`, whole in the end or not there.

    Gives what adds a frame (H, W, 3) uint8 RGB to it. MPEG-4 in .mp4, Motion JPEG in .avi: both lose
    a little of the pixels, and want even sides: of an odd one the last line is there twice.
    InputError where OpenCV has no such codec, OSError where the disk is full.
    """
    height, width = video.size
    below, right = height % 2, width % 2
    code = "MJPG" if path.suffix == ".avi" else "mp4v"
    written = 0
    with aside(path, path.suffix) as other:
        fourcc, size = cv2.VideoWriter.fourcc(*code), (width + right, height + below)
        writer = cv2.VideoWriter(str(other), fourcc, video.rate, size)
        if not writer.isOpened():
            raise InputError(f"{path}: this OpenCV can't write {code} videos of {width}x{height}")

        def add(frame: np.ndarray) -> None:
            nonlocal written
            even = cv2.copyMakeBorder(frame, 0, below, 0, right, cv2.BORDER_REPLICATE)
            writer.write(cv2.cvtColor(even, cv2.COLOR_RGB2BGR))
            written += 1

        try:
            yield add
        finally:
            writer.release()
        held = _count(other)
        if held != written:  # OpenCV tells of no error
            lost = f"{held} of {written} frames were written (is the disk full?)"
            raise OSError(errno.EIO, lost, str(path))


def _count(path: Path) -> int:
    capture = cv2.VideoCapture(str(path))
    count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
    capture.release()
    return count


def is_camera(source: str | Path) -> bool:
    """Whether an input is a camera, by its number: "camera:0"."""
    return str(source).startswith(CAMERA)


def is_video(source: str | Path) -> bool:
    """Whether an input is a camera, or a video file by its ending."""
    return is_camera(source) or Path(source).suffix.lower() in ENDINGS


def _opened(source: str) -> Any:
    number = source[len(CAMERA) :]
    if is_camera(source) and not number.isdigit():
        raise InputError(f"{source}: a camera is given by its number, like {CAMERA}0")
    level = cv2.getLogLevel()
    cv2.setLogLevel(0)  # what OpenCV would print of a file or a camera, we say in one line
    try:
        capture = cv2.VideoCapture(int(number) if is_camera(source) else source)
    finally:
        cv2.setLogLevel(level)
    if capture.isOpened():
        return capture
    if is_camera(source):
        raise InputError(f"{source}: there is no such camera, or /dev/video{number} can't be opened")
    raise InputError(f"{source}: not a video that can be decoded (damaged or truncated?)")


def film_ending(source: str | Path) -> str:
    """That of a video made of this one: MPEG-4, or Motion JPEG where this one is an .avi."""
    return ".avi" if Path(source).suffix.lower() == ".avi" else ".mp4"
