"""What `segtrain predict` writes of an image beside its mask: pictures, probabilities, polygons.

Each is a file in the making, which `infer.save` gives the parts of an image one after the other.
"""

from __future__ import annotations

import json
import math
import re
import tempfile
import zipfile
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence

import cv2
import numpy as np

from segtrain.data.files import decode
from segtrain.errors import UserError
from segtrain.prediction import pictures, polygons, records, video
from segtrain.prediction.infer import Part
from segtrain.prediction.pictures import (
    File,
    aside,
    display,
    mask_picture,
    mix,
    overlay_picture,
    picture,
    write,
)
from segtrain.prediction.video import Video, film_ending
from segtrain.trained import Trained

HEAT = cv2.applyColorMap(np.arange(256, dtype=np.uint8), cv2.COLORMAP_INFERNO)[:, 0, ::-1]


class Products(NamedTuple):
    """What is wanted beside the masks, each in a folder of its own.

    overlay, colour: pictures; entropy: heat maps; probabilities: "npz" or "png"; polygons: "geojson"
    or "coco".
    """

    overlay: bool = False
    colour: bool = False
    entropy: bool = False
    probabilities: Optional[str] = None
    polygons: Optional[str] = None

    @property
    def soft(self) -> bool:
        """Whether any of them is made of probabilities."""
        return self.entropy or self.probabilities is not None


class OfImages:
    """What is made of images and videos: where it goes, and how it is read."""

    endings = pictures.ENDINGS | video.ENDINGS

    def __init__(self, out: Path, trained: Trained, products: Products):
        self._out, self._products, self._kind = out, products, trained.kind
        self._classes, self._palette = trained.classes, trained.palette

    def read(self, path: Path) -> np.ndarray:
        """An image (H, W, C); InputError if it can't be used."""
        return decode(path, self._kind)

    def targets(self, name: str) -> Dict[str, List[Path]]:
        """The files of an image by product; its mask's is "mask"."""
        out, wanted = self._out, self._products
        folder = out / "probabilities"
        maps = [folder / name / f"{i}-{_plain(c)}.png" for i, c in enumerate(self._classes)]
        files = {
            "mask": [out / f"{name}.png"],
            "overlay": [out / "overlays" / f"{name}.png"] * wanted.overlay,
            "colour": [out / "colours" / f"{name}.png"] * wanted.colour,
            "entropy": [out / "entropy" / f"{name}.png"] * wanted.entropy,
            "npz": [folder / f"{name}.npz"] * (wanted.probabilities == "npz"),
            "png": maps * (wanted.probabilities == "png"),
            "geojson": [out / "polygons" / f"{name}.geojson"] * (wanted.polygons == "geojson"),
        }
        return {product: paths for product, paths in files.items() if paths}

    def files(self, name: str, source: str, image: np.ndarray, results: Dict[str, Any]) -> List[File]:
        """The files of an image (H, W, C) in the making; figures of it go to `results`."""
        size, palette, classes = image.shape[:2], self._palette, self._classes

        def outlined(mask: np.ndarray) -> bytes:
            return json.dumps(polygons.geojson(mask, classes, source)).encode()

        make: Dict[str, Callable[..., File]] = {
            "mask": lambda path: mask_picture(path, size, palette),
            "overlay": lambda path: overlay_picture(path, image, palette),
            "colour": lambda path: picture(path, size, lambda part: palette[part.ids]),
            "entropy": lambda path: entropy_map(path, size, results),
            "npz": lambda path: archive(path, size, classes),
            "png": lambda path: class_map(path, size, int(path.name.split("-")[0])),
            "geojson": lambda path: of_mask(path, size, outlined),
        }
        targets = self.targets(name)
        return [make[product](path) for product, paths in targets.items() for path in paths]

    def open(self, source: str, limit: Optional[int]) -> Video:
        """A video or camera; InputError if it can't be used."""
        return Video(source, self._kind, limit)

    def films(self, name: str, source: Path) -> List[Path]:
        """The video files of a video: of its masks, then of its overlays."""
        file = f"{name}{film_ending(source)}"
        return [self._out / file, *[self._out / "overlays" / file] * self._products.overlay]

    def shot(self, frame: np.ndarray, ids: np.ndarray) -> List[np.ndarray]:
        """A frame (H, W, C) and its mask as frames (H, W, 3) uint8 of the films."""
        over = [mix(display(frame), ids, self._palette)] if self._products.overlay else []
        return [self._palette[ids], *over]


class OfRecords:
    """What is made of signals' records: a CSV of labels, and a plot where overlays are wanted."""

    endings = records.ENDINGS

    def __init__(self, out: Path, trained: Trained, products: Products):
        if products._replace(overlay=False) != Products():
            raise UserError("of signals there are CSVs, and plots with --overlay, and nothing else")
        assert trained.form is not None
        self._out, self._plots, self._form = out, products.overlay, trained.form
        self._classes, self._palette = trained.classes, trained.palette

    def read(self, path: Path) -> np.ndarray:
        """The signal (L, C) of a record; RecordError if it can't be used."""
        return records.read_signal(path, self._form)

    def targets(self, name: str) -> Dict[str, List[Path]]:
        """The files of a record by product; its labels' is "mask"."""
        plot = {"overlay": [self._out / "overlays" / f"{name}.png"]} if self._plots else {}
        return {"mask": [self._out / f"{name}.csv"], **plot}

    def files(self, name: str, source: str, signal: np.ndarray, results: Dict[str, Any]) -> List[File]:
        """The files of a signal (L, C) in the making."""
        classes, rate = self._classes, self._form.rate
        make: Dict[str, Callable[[np.ndarray], bytes]] = {
            "mask": lambda ids: records.table(ids, classes, rate),
            "overlay": lambda ids: records.plot(signal, ids, classes, self._palette, rate),
        }
        targets = self.targets(name).items()
        return [of_mask(path, signal.shape[:1], make[product]) for product, (path,) in targets]


def mask_writer(out: Path, trained: Trained, names: Sequence[str]) -> Callable[[str, np.ndarray], None]:
    """What writes the mask of each of the samples `names` into `out`, as `segtrain predict` would.

    The name of a record's file is without the record's ending, unless another one differs in that alone.
    """
    if trained.form is None:
        return lambda name, mask: write(out / f"{name}.png", pictures.encode(mask, trained.palette))
    rate, alike = trained.form.rate, Counter(map(_bare, names))
    files = {name: _bare(name) if alike[_bare(name)] == 1 else name for name in names}
    return lambda name, ids: write(out / f"{files[name]}.csv", records.table(ids, trained.classes, rate))


def _bare(name: str) -> str:
    ending = Path(name).suffix
    return name[: -len(ending)] if ending in records.ENDINGS else name


def _plain(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name)


def entropy(probabilities: np.ndarray) -> np.ndarray:
    """The entropy (h, w) of probabilities (classes, h, w), from 0, sure, to 1, all classes alike.

    Shannon's, in parts of the greatest that this many classes can have, their logarithm.
    """
    each = probabilities * np.log(np.maximum(probabilities, 1e-30))
    return -each.sum(axis=0) / math.log(max(2, len(probabilities)))


def entropy_map(path: Path, size: Sequence[int], results: Dict[str, Any]) -> File:
    """A heat map: a palette PNG whose pixels are the entropy, 255 at 1; its mean goes to `results`."""
    results["entropy"] = 0.0

    def heat(part: Part) -> np.ndarray:
        assert part.probabilities is not None
        found = entropy(part.probabilities)
        results["entropy"] += float(found.sum(dtype=np.float64)) / (size[0] * size[1])
        return _byte(found)

    return picture(path, size, heat, HEAT)


def class_map(path: Path, size: Sequence[int], class_id: int) -> File:
    """The probability of one class as a grey PNG, 255 at 1."""

    def grey(part: Part) -> np.ndarray:
        assert part.probabilities is not None
        return _byte(part.probabilities[class_id])

    return picture(path, size, grey)


def _byte(share: np.ndarray) -> np.ndarray:
    return np.rint(255 * share.clip(0, 1)).astype(np.uint8)


@contextmanager
def archive(path: Path, size: Sequence[int], classes: Sequence[str]) -> Iterator[Callable[[Part], None]]:
    """An .npz with `probabilities` (classes, H, W) float16, and the names of the `classes`."""
    with aside(path) as other, tempfile.TemporaryFile(dir=path.parent) as room:
        # on the disk, because all classes of a large picture are too much for the memory
        shape = (len(classes), *size)
        array: Any = np.memmap(room, np.float16, "w+", shape=shape)  # type: ignore[call-overload]

        def add(part: Part) -> None:
            array[(slice(None), *part.place)] = part.probabilities

        yield add
        with zipfile.ZipFile(other, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
            for name, content in (("probabilities", array), ("classes", np.array(classes))):
                with file.open(f"{name}.npy", "w", force_zip64=True) as entry:
                    np.lib.format.write_array(entry, content, allow_pickle=False)


@contextmanager
def of_mask(
    path: Path, size: Sequence[int], make: Callable[[np.ndarray], bytes]
) -> Iterator[Callable[[Part], None]]:
    """A file whose content `make` makes of the whole mask."""
    mask = np.empty(size, np.uint8)

    def add(part: Part) -> None:
        mask[part.place] = part.ids

    yield add
    write(path, make(mask))
