"""What TensorBoard shows of a run: event files in RUN/events, each step in them once."""

from __future__ import annotations

import os
import re
import socket
import struct
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Set, Tuple

import cv2
import numpy as np
from google.protobuf.message import DecodeError
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import RecordWriter

from segtrain.data.dataset import Dataset
from segtrain.graph.sheet import compared, some
from segtrain.prediction.infer import Predictor

_NAME = re.compile(r"events\.out\.tfevents\.(\d+)\..*\.segtrain")
_SIDE = 512  # of a picture's image, so that hundreds of evaluations stay small


class Board:
    """Writes a run's scalars and images for TensorBoard, and never stops or delays the run.

    step: how many steps the run has done, as its checkpoint says. Later steps in the files of
    earlier starts will be trained again, so they are cut off, and a TensorBoard that shows
    them is told to forget them; what the files hold of `step` itself isn't written again. For
    that, a run that saves a checkpoint writes its events first.

    What can't be written ends the writing, with one line to `warn`.
    """

    def __init__(self, run: Path, step: int = 0, warn: Callable[[str], None] = print):
        self._folder, self._warn = run / "events", warn
        self._writer: Optional[RecordWriter] = None
        self.rewind(step)

    def rewind(self, step: int) -> None:
        """Forget all later steps than this one, and go on from it."""
        self.close()
        self._step = step
        self._known: Set[str] = set()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            earlier = sorted(p for p in self._folder.iterdir() if _NAME.fullmatch(p.name))
            for path in earlier:
                self._known |= _cut(path, step)
            self._writer = RecordWriter(str(self._folder / _name(earlier)))
        except OSError as error:
            self._fail(error)
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        start = SessionLog(status=SessionLog.START)
        self._write(Event(wall_time=time.time(), step=step + 1, session_log=start))
        self.flush()

    def scalars(self, step: int, values: Mapping[str, Optional[float]]) -> None:
        """Numbers by their tags after that many steps; those that are None are left out."""
        found = [(tag, value) for tag, value in values.items() if value is not None]
        self._add(step, [Summary.Value(tag=tag, simple_value=float(v)) for tag, v in found])

    def images(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """Pictures by their tags after that many steps, (H, W, 3) uint8 RGB."""
        self._add(step, [Summary.Value(tag=t, image=_encoded(p)) for t, p in pictures.items()])

    def flush(self) -> None:
        """Hand all that was written to the system: a killed process loses nothing of it."""
        if self._writer:
            try:
                self._writer.flush()
            except OSError as error:
                self._fail(error)

    def close(self) -> None:
        """Write out what is left; nothing is written after that."""
        self.flush()
        if self._writer:
            self._writer.close()
        self._writer = None

    def _add(self, step: int, values: List[Any]) -> None:
        new = [v for v in values if step > self._step or v.tag not in self._known]
        if new:
            self._write(Event(wall_time=time.time(), step=step, summary=Summary(value=new)))
            self.flush()

    def _write(self, event: Event) -> None:
        if self._writer:
            try:
                self._writer.write(event.SerializeToString())
            except OSError as error:
                self._fail(error)

    def _fail(self, error: OSError) -> None:
        if self._writer:
            with suppress(OSError):
                self._writer.close()
        self._writer = None
        self._warn(f"{self._folder}: {error.strerror or error}; going on without TensorBoard's events")


class NoBoard(Board):
    """A board of a rank that writes nothing."""

    def __init__(self, *_: object):
        self._writer = None

    def rewind(self, step: int) -> None:
        """Nothing to forget."""

    def _add(self, step: int, values: List[Any]) -> None:
        """Nothing to write."""


def pictures(dataset: Dataset, predictor: Predictor, count: int = 4) -> Dict[str, np.ndarray]:
    """By id, up to `count` samples, the same at each call: image, truth, prediction, side by side.

    Masks lie over the image, ignored pixels white; (H, W, 3) uint8. None of signals.
    """
    if getattr(dataset, "dim", 2) == 1:
        return {}
    found = {}
    for index in some(dataset, count):
        image, truth = dataset.read(index)
        masks = [truth, predictor.mask(image)]
        found[dataset.ids[index]] = compared(image, masks, dataset.ignore, _SIDE)
    return found


def _encoded(picture: np.ndarray) -> Any:
    """The picture as a JPEG: a fifth of a PNG, whose checksum in Python takes as much less time."""
    height, width = picture.shape[:2]
    jpeg = cv2.imencode(".jpg", picture[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
    return Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=jpeg)


def _name(earlier: List[Path]) -> str:
    """A file name that sorts, and so is read, after the earlier ones."""
    numbers = [int(match.group(1)) for match in map(_NAME.fullmatch, (p.name for p in earlier)) if match]
    number = max([int(time.time()), *[n + 1 for n in numbers]])
    return f"events.out.tfevents.{number:010d}.{socket.gethostname()}.segtrain"


def _cut(path: Path, step: int) -> Set[str]:
    """End the file before its first event of a later step; the tags that it has of `step`."""
    known: Set[str] = set()
    end = kept = 0
    for event, end_of in _events(path):
        if event.HasField("summary") and event.step > step:
            break
        end = end_of
        kept += event.HasField("summary")
        if event.step == step:
            known.update(value.tag for value in event.summary.value)
    if not kept:
        path.unlink()
    elif end < path.stat().st_size:
        os.truncate(path, end)
    return known


def _events(path: Path) -> Iterator[Tuple[Event, int]]:
    """The events of a file, and where each ends in it, up to the first that isn't whole.

    Each is its length, a checksum of that, itself, and its checksum (TFRecord).
    """
    with open(path, "rb") as file:
        while True:
            header = file.read(12)
            if len(header) < 12:
                return
            (length,) = struct.unpack("<Q", header[:8])
            if length > path.stat().st_size - file.tell() - 4:
                return
            try:
                event = Event.FromString(file.read(length))
            except DecodeError:
                return
            file.read(4)
            yield event, file.tell()
