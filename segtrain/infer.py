"""Images to masks with an exported bundle: needs only mxnet, numpy and opencv.

This file is both `segtrain predict`'s inside and the ``infer.py`` of every bundle:

    python infer.py photo.jpg folder/ 'more/*.png' --out masks
"""

from __future__ import annotations

import argparse
import glob
import io
import os
import struct
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Callable, Iterable, Iterator, NamedTuple, Sequence

import cv2
import numpy as np

if __package__:
    from segtrain import runtimes
else:  # in a bundle
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    import runtimes  # type: ignore[import-not-found, no-redef]

ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".npy"}
DEPTHS = {"uint8": 8, "uint16": 16, "int16": 16, "float32": 32, "float64": 32}


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


class Policy(NamedTuple):
    """How an image goes through the network.

    scales: sizes whose probabilities are averaged; flip: with the mirrored image too; window:
    side of a sliding window, None for the whole image at once; overlap: share of a window that
    the next one covers.
    """

    scales: Sequence[float] = (1.0,)
    flip: bool = False
    window: int | None = None
    overlap: float = 0.5

    @property
    def plain(self) -> bool:
        return tuple(self.scales) == (1.0,) and not self.flip and not self.window


class Predictor:
    """A network with what it needs to turn an image of any size into a mask of that size.

    `forward` takes raw pixels (N, C, H, W) as an MXNet array and gives scores (N, classes, H, W).
    side: the only height and width that it takes; then images go through in windows of that size.
    """

    def __init__(self, forward: Callable, context, policy: Policy = Policy(), side: int | None = None):
        self._forward, self._context, self._side = forward, context, side
        self.policy = policy._replace(window=side) if side else policy

    def mask(self, image: np.ndarray) -> np.ndarray:
        """The class ids (H, W) uint8 of an image (H, W, C) uint8 or float32."""
        if not self.policy.plain:
            return self.probabilities(image).argmax(axis=0).astype(np.uint8)
        return self._run(image).argmax(axis=1).astype("uint8").asnumpy()[0]

    def scores(self, image: np.ndarray) -> np.ndarray:
        """The network's raw scores of the whole image, (classes, H, W) float32.

        Probabilities where it can take an image in windows only.
        """
        return self.probabilities(image) if self._side else self._run(image).asnumpy()[0]

    def probabilities(self, image: np.ndarray) -> np.ndarray:
        """The class probabilities (classes, H, W) float32, averaged as the policy says."""
        views = [(scale, flip) for scale in self.policy.scales for flip in (False, True)]
        views = [view for view in views if self.policy.flip or not view[1]]
        return np.mean([self._view(image, *view) for view in views], axis=0)

    def _view(self, image: np.ndarray, scale: float, flip: bool) -> np.ndarray:
        height, width = image.shape[:2]
        size = max(1, round(width * scale)), max(1, round(height * scale))
        view = image if scale == 1 else cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
        view = view.reshape(*view.shape[:2], -1)
        found = self._tiled(view[:, ::-1] if flip else view)
        found = found[:, :, ::-1] if flip else found
        if found.shape[1:] == (height, width):
            return found
        return np.stack([cv2.resize(plane, (width, height)) for plane in found])

    def _tiled(self, image: np.ndarray) -> np.ndarray:
        """Probabilities from overlapping windows under a Gaussian weight, summed on the host."""
        if not self.policy.window or self.policy.window >= max(image.shape[:2]):
            return self._softmax(image)[:, : image.shape[0], : image.shape[1]]
        side = self.policy.window
        weight = gaussian(side)
        total: np.ndarray | None = None
        for rows in spans(image.shape[0], side, self.policy.overlap):
            for columns in spans(image.shape[1], side, self.policy.overlap):
                found = self._softmax(image[rows, columns])
                if total is None:
                    total = np.zeros((len(found), *image.shape[:2]), np.float32)
                size = rows.stop - rows.start, columns.stop - columns.start
                found = found[:, : size[0], : size[1]]
                total[:, rows, columns] += found * weight[: size[0], : size[1]]
        assert total is not None
        return total / total.sum(axis=0)

    def _softmax(self, image: np.ndarray) -> np.ndarray:
        return self._run(image).softmax(axis=1).asnumpy()[0]

    def _run(self, image: np.ndarray):
        import mxnet as mx

        whole = image if self._side is None else pad(image, self._side)
        batch = np.ascontiguousarray(np.moveaxis(whole, -1, 0)[None])
        return self._forward(mx.nd.array(batch, ctx=self._context, dtype=batch.dtype))


def pad(image: np.ndarray, side: int) -> np.ndarray:
    """The image (H, W, C), mirrored at its lower and right border to be `side` high and wide."""
    height, width = image.shape[:2]
    below, right = max(0, side - height), max(0, side - width)
    if not below and not right:
        return image
    wide = cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_REFLECT_101)
    return wide.reshape(height + below, width + right, -1)


def spans(length: int, side: int, overlap: float) -> list[slice]:
    """Windows of `side` that cover `length`, evenly spread, overlapping at least as asked."""
    if side >= length:
        return [slice(0, length)]
    count = 1 + -int(-(length - side) // max(1, side * (1 - overlap)))
    return [slice(int(s), int(s) + side) for s in np.linspace(0, length - side, count).round()]


def gaussian(side: int) -> np.ndarray:
    """Weights (side, side) that fall off towards a window's border, sigma side / 8."""
    line = np.exp(-0.5 * ((np.arange(side) - (side - 1) / 2) / (side / 8)) ** 2)
    return np.maximum(np.outer(line, line), 1e-3).astype(np.float32)


# ---- files


def decode(content: bytes, kind: Kind = RGB) -> np.ndarray | None:
    """A picture file's content as (H, W, C), RGB or RGBA, of its own type; None if it is damaged.

    One or three channels: the picture as grey or RGB whatever it is, EXIF orientation applied.
    Any other number: as many as there are, as they lie. A file may be of another depth than `kind`.
    """
    pixels = np.frombuffer(content, np.uint8)
    flags = {1: cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH, 3: cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH}
    # OpenCV turns no floats from grey to colour, or back
    flag = cv2.IMREAD_UNCHANGED if kind.depth == 32 else flags.get(kind.channels, cv2.IMREAD_UNCHANGED)
    try:
        image = cv2.imdecode(pixels, flag) if len(pixels) else None
        if image is None and len(pixels):  # perhaps of floats, when no floats are wanted
            image = cv2.imdecode(pixels, cv2.IMREAD_UNCHANGED)
    except cv2.error:  # more pixels than OpenCV is willing to decode
        return None
    last_scan = content.rfind(b"\xff\xda")
    cut = content[:2] == b"\xff\xd8" and b"\xff\xd9" not in content[last_scan:]
    return None if image is None or cut else _ordered(image, kind.channels)


def _ordered(image: np.ndarray, channels: int) -> np.ndarray:
    """A picture as OpenCV has it, BGR or BGRA, as (H, W, C) in the order of RGB."""
    found = 1 if image.ndim == 2 else image.shape[2]
    if channels == 1 and found > 1:
        grey = image[..., :3] @ np.array([0.114, 0.587, 0.299])
        image = (grey if image.dtype.kind == "f" else np.rint(grey)).astype(image.dtype)
    elif channels == 3 and found == 1:
        image = np.repeat(image[..., None], 3, axis=2)
    elif found >= 3:
        planes = cv2.split(image)
        image = cv2.merge([planes[i] for i in (2, 1, 0, 3)[: 3 if channels == 3 else found]])
    return image.reshape(*image.shape[:2], -1)


def banded(content: bytes) -> bool:
    """Whether a file is a TIFF with bands or pages that OpenCV would misread, or drop.

    It reads one page of grey, RGB, or RGBA of 16 bits; 8-bit colours it multiplies with alpha.
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
    return pages > 1 or (samples > 1 and bands)


def _tags(content: bytes) -> tuple[dict[int, int], int]:
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


def read(path: Path, kind: Kind = RGB, content: bytes | None = None) -> np.ndarray:
    """An image file (H, W, C) of the kind: uint8 of 8 bits, else float32 with the file's values.

    content: the file's, where it was read already. InputError if it can't be read or decoded, or
    is of another kind.
    """
    try:
        content = path.read_bytes() if content is None else content
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    if path.suffix.lower() == ".npy" or content.startswith(b"\x93NUMPY"):
        return checked(array(path, content), kind, path)
    if banded(content):
        raise InputError(
            f"{path}: a TIFF of several pages or bands, which OpenCV can't read: save it as "
            ".npy, an array (height, width, channels)"
        )
    image = decode(content, kind)
    if image is None:
        raise InputError(f"{path}: not an image that can be decoded (damaged or truncated?)")
    return checked(image, kind, path)


def array(path: Path, content: bytes | None = None) -> np.ndarray:
    """The array of a .npy file, or of its `content`; InputError if it can't be read."""
    try:
        found = np.load(path if content is None else io.BytesIO(content), allow_pickle=False)
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


def encode(mask: np.ndarray, palette: np.ndarray) -> bytes:
    """A mask (H, W) uint8 as a palette PNG: the pixels are class ids, shown in their colours."""
    height, width = mask.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), mask], axis=1)  # filter byte 0: none
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
        (b"PLTE", palette.astype(np.uint8).tobytes()),
        (b"IDAT", zlib.compress(rows.tobytes(), 6)),
        (b"IEND", b""),
    ]
    framed = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


def overlay(image: np.ndarray, mask: np.ndarray, palette: np.ndarray) -> bytes:
    """The image (H, W, C) with each class's colour half over it, as a PNG."""
    mixed = cv2.addWeighted(_shown(image), 0.5, palette[mask].astype(np.uint8), 0.5, 0)
    return cv2.imencode(".png", cv2.cvtColor(mixed, cv2.COLOR_RGB2BGR))[1].tobytes()


def _shown(image: np.ndarray) -> np.ndarray:
    """An image of any kind as a picture (H, W, 3) uint8: its first three channels, or its first."""
    picture = image[..., :3] if image.shape[2] >= 3 else np.repeat(image[..., :1], 3, axis=2)
    if picture.dtype == np.uint8:
        return np.ascontiguousarray(picture)
    low, high = np.percentile(picture, (1, 99))
    return (255 * np.clip((picture - low) / max(high - low, 1e-9), 0, 1)).astype(np.uint8)


def write(path: Path, content: bytes) -> None:
    """Write a file aside and rename it, so that it is never there in part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_bytes(content)
        os.replace(aside, path)
    finally:
        if aside.exists():
            aside.unlink()


def find(inputs: Iterable[str], endings: set[str] = ENDINGS) -> dict[str, Path]:
    """The files of these endings among files, folders and globs, by the name their masks get.

    A folder's files keep their place in it. InputError for an input that is missing or empty,
    and for two that would get one name.
    """
    found: dict[str, Path] = {}
    for name, path in _listed(inputs, endings):
        if found.get(name, path) != path:
            raise InputError(f"{found[name]} and {path} would both be written as {name}")
        found[name] = path
    return found


def refuse_overwriting(files: dict[str, Path], out: Path, ending: str = ".png") -> None:
    """InputError where a mask or an overlay would be written over one of the images."""
    images = {path.resolve() for path in files.values()}
    for name in files:
        for target in (out / f"{name}{ending}", out / "overlays" / f"{name}.png"):
            if target.resolve() in images:
                raise InputError(f"{target} is one of the {_kind(ending)}s: give another --out")


def _listed(inputs: Iterable[str], endings: set[str]) -> Iterator[tuple[str, Path]]:
    for text in inputs:
        path = Path(text)
        if path.is_dir():
            files = [f for f in sorted(path.rglob("*")) if f.suffix.lower() in endings]
            pairs = [(f.relative_to(path).with_suffix("").as_posix(), f) for f in files]
        elif path.is_file():
            pairs = [(path.stem, path)]
        else:
            files = [Path(f) for f in sorted(glob.glob(text, recursive=True))]
            pairs = [(f.stem, f) for f in files if f.suffix.lower() in endings]
        if not pairs:
            raise InputError(f"{text}: no {_kind(*endings)} there ({', '.join(sorted(endings))})")
        yield from pairs


def _kind(*endings: str) -> str:
    return "image" if ENDINGS.issuperset(endings) else "record"


# ---- the bundle


def cores() -> int:
    """The physical cores that this process may run on."""
    cpus = os.sched_getaffinity(0)
    files = [Path(f"/sys/devices/system/cpu/cpu{i}/topology/thread_siblings_list") for i in cpus]
    return len({f.read_text() if f.exists() else str(f) for f in files})


def load(
    bundle: Path, context, name: str | None = None, runtime: str | None = None
) -> tuple[Callable, dict]:
    """A bundle's network and its ``model.json``; InputError where they can't be used.

    name: of one of its formats; runtime: what runs it. See runtimes.py, beside this file.
    """
    try:
        return runtimes.load(bundle, context, name, runtime)
    except runtimes.BundleError as error:
        raise InputError(str(error)) from None


def _write_masks(predictor: Predictor, about: dict, options: argparse.Namespace) -> None:
    kind = Kind(about["input"]["channels"], about["input"]["depth"])
    palette = np.array(about["palette"], np.uint8)
    files = find(options.input)
    refuse_overwriting(files, options.out)
    for name, path in files.items():
        image = read(path, kind)
        mask = predictor.mask(image)
        write(options.out / f"{name}.png", encode(mask, palette))
        if options.overlay:
            write(options.out / "overlays" / f"{name}.png", overlay(image, mask, palette))
        if options.scores:
            np.save(options.out / f"{name}.npy", predictor.scores(image))


def _write_labels(predictor: Predictor, about: dict, options: argparse.Namespace) -> None:
    """For a network of signals, whose bundle has records.py beside this file."""
    import records  # type: ignore[import-not-found]

    form, classes = records.Form(**about["form"]), about["classes"]
    files = find(options.input, records.ENDINGS)
    refuse_overwriting(files, options.out, ".csv")
    for name, path in files.items():
        signal = records.read_signal(path, form)
        ids = predictor.mask(signal)
        write(options.out / f"{name}.csv", records.table(ids, classes, form.rate))
        if options.overlay:
            colours = np.array(about["palette"])
            plot = records.plot(signal, ids, classes, colours, form.rate)
            write(options.out / "overlays" / f"{name}.png", plot)
        if options.scores:
            np.save(options.out / f"{name}.npy", predictor.scores(signal))


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line of a bundle."""
    parser = argparse.ArgumentParser(description="Images to masks of the same size.")
    parser.add_argument("input", nargs="+", help="files, folders or globs")
    parser.add_argument("--out", required=True, type=Path, help="folder for the masks")
    parser.add_argument("--gpu", type=int, metavar="N", help="run on this GPU; the CPU by default")
    parser.add_argument("--overlay", action="store_true", help="write the masks over the images too")
    parser.add_argument("--scores", action="store_true", help="write the raw scores too, as .npy")
    parser.add_argument("--format", help="of the bundle's: mxnet by default")
    parser.add_argument("--runtime", choices=runtimes.RUNTIMES, help="what runs the network")
    options = parser.parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", str(cores()))  # MXNet would use half of them
    import mxnet as mx

    context = mx.cpu() if options.gpu is None else mx.gpu(options.gpu)
    try:
        home = Path(__file__).resolve().parent
        net, about = load(home, context, options.format, options.runtime)
        predictor = Predictor(net, context, side=about["side"])
        write_all = _write_labels if "form" in about else _write_masks
        write_all(predictor, about, options)
    except (InputError, OSError, KeyError, ValueError, mx.MXNetError) as error:
        sys.exit(f"infer.py: {' '.join(str(error).split())[:300]}")


if __name__ == "__main__":
    main()
