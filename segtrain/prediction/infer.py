"""Images to masks with an exported bundle: needs only mxnet, numpy and opencv.

This file is both `segtrain predict`'s inside and the ``infer.py`` of every bundle, where the modules
that it imports lie beside it:

    python infer.py photo.jpg folder/ 'more/*.png' film.mp4 --out masks
"""

from __future__ import annotations

import argparse
import glob
import os
import sys
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any, Callable, ContextManager, Iterable, Iterator, NamedTuple, Sequence

import cv2
import numpy as np

if not __package__:  # in a bundle, whose modules beside this one become a package
    __package__ = "bundle"
    sys.modules[__package__] = ModuleType(__package__)
    sys.modules[__package__].__path__ = [str(Path(__file__).resolve().parent)]

from . import runtimes, threads, tiling, video
from .pictures import (
    ENDINGS,
    File,
    InputError,
    Kind,
    display,
    mask_picture,
    mix,
    overlay_picture,
    read,
    write,
)

WHOLE = 2**22  # pixels; an image of more goes through in windows, unless --window says otherwise
SIDE, OVERLAP = 1024, 0.25  # of those windows
TOGETHER = 2**18  # pixels of images that go together: with more, the scores leave a CPU's cache
MOST = 8  # of these images, lest the first waits long for the last to be read
SEARCH = "MXNET_CUDNN_AUTOTUNE_DEFAULT"  # for a convolution's fastest algorithm: 0 for none


class Policy(NamedTuple):
    """How an image goes through the network.

    scales: sizes whose probabilities are averaged; flip: with the mirrored image too; window:
    side of a sliding window, 0 for the whole image at once, None for windows of `SIDE` that overlap
    by `OVERLAP` where an image has more than `WHOLE` pixels; overlap: share of a window that the
    next one covers; blend: how windows are weighted, "gaussian" or "uniform".
    """

    scales: Sequence[float] = (1.0,)
    flip: bool = False
    window: int | None = None
    overlap: float = 0.5
    blend: str = "gaussian"

    @property
    def plain(self) -> bool:
        return self.views == [(1.0, False)] and not self.window

    @property
    def views(self) -> list[tuple[float, bool]]:
        """The sizes and sides (mirrored or not) in which an image, or a window, is looked at."""
        return [(scale, flip) for scale in self.scales for flip in (False, True)[: 1 + self.flip]]


class Part(NamedTuple):
    """What was found in a part of an image: its rows and columns (of a signal its samples)."""

    place: tuple[slice, ...]
    ids: np.ndarray  # (h, w) uint8
    probabilities: np.ndarray | None  # (classes, h, w) float32, where they were asked for


class Predictor:
    """A network with what it needs to turn an image of any size into a mask of that size.

    `forward` takes raw pixels (N, C, H, W) as an MXNet array and gives scores (N, classes, H, W).
    side: the only height and width that it takes; then images go through in windows of that size.
    stride: sides that it takes are its multiples; images are mirrored at their lower and right
    borders up to these. `batch`: images of one size, or windows, that go through at a time; None:
    as many as hold `TOGETHER` pixels, at most `MOST`.
    """

    def __init__(
        self,
        forward: Callable,
        context: Any,
        policy: Policy = Policy(),
        side: int | None = None,
        stride: int = 1,
    ):
        self._forward, self._context, self._side = forward, context, side
        self._stride = 1 if side else stride
        self.policy = policy._replace(window=side) if side else policy
        self.batch: int | None = None
        self.searches = context.device_type == "gpu"  # cuDNN, for the fastest algorithms
        self._first: list[int] | None = None  # the sides of what went through first

    def mask(self, image: np.ndarray) -> np.ndarray:
        """The class ids (H, W) uint8 of an image (H, W, C) uint8 or float32."""
        mask = np.empty(image.shape[:-1], np.uint8)
        for part in self.parts(image):
            mask[part.place] = part.ids
        return mask

    def probabilities(self, image: np.ndarray) -> np.ndarray:
        """The class probabilities (classes, H, W) float32, averaged as the policy says."""
        parts = self.parts(image, probabilities=True)
        return _joined(((p.place, p.probabilities) for p in parts), image.shape[:-1])  # type: ignore

    def scores(self, image: np.ndarray) -> np.ndarray:
        """The network's raw scores of the whole image, (classes, H, W) float32.

        Probabilities of an image that goes through in windows.
        """
        if self.windows(image.shape):
            return self.probabilities(image)
        with self._searching(image.shape[:-1]):
            return _cut(self._run(image[None]).asnumpy(), image.shape[:-1])[0]

    def windows(self, shape: Sequence[int]) -> tiling.Windows | None:
        """The windows in which an image of this shape (H, W, C) goes through; None: it goes whole."""
        side, overlap, blend = self.policy.window, self.policy.overlap, self.policy.blend
        if side is None and len(shape) == 3 and shape[0] * shape[1] > WHOLE:
            side, overlap = SIDE, OVERLAP
        if not side or (side >= max(shape[:2]) and not self._side):
            return None
        return tiling.Windows(-(-side // self._stride) * self._stride, overlap, blend, self._stride)

    def parts(self, image: np.ndarray, probabilities: bool = False) -> Iterator[Part]:
        """What is found in an image, a part at a time, from top to bottom and from left to right.

        The parts cover the image once: it is one part, or in windows many, of which only a few are
        in memory together.
        """
        windows = self.windows(image.shape)
        if windows is None:
            yield from self.whole([image], probabilities)
            return
        at_a_time = self.together((windows.side, windows.side))
        for place, found in tiling.blended(image, windows, self._average, at_a_time):
            yield Part(place, highest(found), found if probabilities else None)

    def together(self, shape: Sequence[int]) -> int:
        """How many images or windows of this shape (H, W, ...), or signals (L, ...), go at a time."""
        return self.batch or min(MOST, max(1, TOGETHER // int(np.prod(shape[:2]))))

    def each(self, images: Sequence[np.ndarray], probabilities: bool = False) -> list[Part]:
        """What is found in images of one size, a part for each: together, or each in windows."""
        if self.windows(images[0].shape) is None:
            return self.whole(images, probabilities)
        place = tuple(slice(0, length) for length in images[0].shape[:-1])
        if not probabilities:
            return [Part(place, self.mask(image), None) for image in images]
        found = [self.probabilities(image) for image in images]
        return [Part(place, highest(planes), planes) for planes in found]

    def whole(self, images: Sequence[np.ndarray], probabilities: bool = False) -> list[Part]:
        """What is found in images of one size that go whole and together, a part for each."""
        batch = np.stack(images)
        size = batch.shape[1:-1]
        place = tuple(slice(0, length) for length in size)
        found: Iterable[np.ndarray | None] = [None] * len(images)
        if self.policy.views == [(1.0, False)]:
            with self._searching(size):
                scores = self._run(batch)
                ids = _cut(argmax(scores), size)
                found = _cut(softmax(scores), size) if probabilities else found
        else:
            average = self._average(batch)
            ids = np.stack([highest(planes) for planes in average])
            found = average if probabilities else found
        return [Part(place, *pair) for pair in zip(ids, found)]

    def _average(self, batch: np.ndarray) -> np.ndarray:
        """Probabilities (N, classes, H, W) of images (N, H, W, C), over the policy's views."""
        first, *others = self.policy.views
        with self._searching(batch.shape[1:-1]):
            total = self._view(batch, *first)
            for view in others:
                total += self._view(batch, *view)
        return total / (1 + len(others)) if others else total

    def _view(self, batch: np.ndarray, scale: float, flip: bool) -> np.ndarray:
        height, width = batch.shape[1:3]
        size = max(1, round(width * scale)), max(1, round(height * scale))
        if scale != 1:
            batch = np.stack([_resized(image, size) for image in batch])
        found = self._softmax(batch[:, :, ::-1] if flip else batch)
        found = found[..., ::-1] if flip else found
        if found.shape[2:] == (height, width):
            return found
        return np.stack([[cv2.resize(p, (width, height)) for p in planes] for planes in found])

    def _softmax(self, batch: np.ndarray) -> np.ndarray:
        size = batch.shape[1:3]
        if self._side and max(size) > self._side:  # a window that a scale has made larger
            windows = tiling.Windows(self._side, self.policy.overlap, self.policy.blend)
            return np.stack([_joined(tiling.blended(x, windows, self._softmax), size) for x in batch])
        return _cut(softmax(self._run(batch)), size)

    def _run(self, batch: np.ndarray) -> Any:
        """The scores of images (N, H, W, C), or signals (N, L, C), as an MXNet array.

        They are larger than the images where these had to be padded.
        """
        import mxnet as mx

        sides = self._sides(batch.shape[1:-1])
        batch = np.ascontiguousarray(np.moveaxis(pad(batch, sides), -1, 1))
        return self._forward(mx.nd.array(batch, ctx=self._context, dtype=batch.dtype))

    def _sides(self, size: Sequence[int]) -> list[int]:
        """Those of what the network is given for images of this size."""
        return [self._side or -(-n // self._stride) * self._stride for n in size]

    def _searching(self, size: Sequence[int]) -> ContextManager[None]:
        """Within it cuDNN may search for the algorithms that are fastest for images of this size.

        If it is a window's, or that of the first image: others may never come again.
        """
        if not self.searches:
            return nullcontext()
        sides = self._sides(size)
        self._first = self._first or sides
        window = self._sides([self.policy.window or SIDE] * len(sides))
        return nullcontext() if sides in (self._first, window) else unsearched()


@contextmanager
def unsearched() -> Iterator[None]:
    """Within it cuDNN chooses algorithms by its rules, unless the environment says otherwise.

    A search runs them all, for each convolution and each shape, before the first image of that shape.
    MXNet asks the environment in a thread of its own, when it gets there: read the scores within.
    """
    if SEARCH in os.environ:
        yield
        return
    os.environ[SEARCH] = "0"
    try:
        yield
    finally:
        del os.environ[SEARCH]


def argmax(scores: Any) -> np.ndarray:
    """The class ids (N, ...) uint8 of scores (N, classes, ...), an MXNet array."""
    if scores.context.device_type != "cpu":
        return scores.argmax(axis=1).astype("uint8").asnumpy()
    return np.stack([highest(planes) for planes in scores.asnumpy()])


def highest(planes: np.ndarray) -> np.ndarray:
    """The place (...) uint8 of the highest of planes (classes, ...), of equal ones the first.

    Plane by plane it takes a third of the time of NumPy's argmax, and a fifth of MXNet's on a CPU.
    """
    best, ids = planes[0].copy(), np.zeros(planes.shape[1:], np.uint8)
    for number, plane in enumerate(planes[1:], 1):
        higher = plane > best
        np.maximum(best, plane, out=best)
        np.maximum(ids, higher.view(np.uint8) * np.uint8(number), out=ids)
    return ids


def softmax(scores: Any) -> np.ndarray:
    """Scores (N, classes, ...), an MXNet array, as probabilities on the host, float32."""
    if scores.context.device_type != "cpu":
        return scores.softmax(axis=1).asnumpy()
    found = scores.asnumpy()  # on a CPU NumPy takes a fifth of MXNet's time
    found -= found.max(axis=1, keepdims=True)
    np.exp(found, out=found)
    found /= found.sum(axis=1, keepdims=True)
    return found


def _joined(parts: Iterable[tuple[tuple[slice, ...], np.ndarray]], size: Sequence[int]) -> np.ndarray:
    """Places with their probabilities as one array (classes, H, W)."""
    whole: np.ndarray | None = None
    for place, found in parts:
        whole = np.empty((len(found), *size), np.float32) if whole is None else whole
        whole[(slice(None), *place)] = found
    assert whole is not None
    return whole


def _resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return cv2.resize(image, size, interpolation=cv2.INTER_LINEAR).reshape(size[1], size[0], -1)


def pad(batch: np.ndarray, sides: Sequence[int]) -> np.ndarray:
    """Images (N, H, W, C), or signals (N, L, C), mirrored at their ends to be as large as `sides`."""
    missing = [side - length for side, length in zip(sides, batch.shape[1:-1])]
    if not any(missing):
        return batch
    return np.pad(batch, [(0, 0), *((0, count) for count in missing), (0, 0)], mode="reflect")


def _cut(found: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """What was found in padded images, (N, ..., H, W), without what the padding added."""
    place: tuple[Any, ...] = (..., *(slice(0, length) for length in size))
    return found[place]


# ---- files


def save(parts: Iterable[Part], files: Sequence[File]) -> None:
    """Add each part to all the files in the making; they are whole at the end, or not there."""
    with ExitStack() as stack:
        adders = [stack.enter_context(file) for file in files]
        for part in parts:
            for add in adders:
                add(part)


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


def refuse_overwriting(files: dict[str, Path], targets: Iterable[Path]) -> None:
    """InputError where one of the files to be written is one of those to be read."""
    inputs = {path.resolve(): path for path in files.values()}
    for target in targets:
        if target.resolve() in inputs:
            raise InputError(f"{target} is one of the inputs: give another --out")


def _listed(inputs: Iterable[str], endings: set[str]) -> Iterator[tuple[str, Path]]:
    for text in inputs:
        path = Path(text)
        if video.is_camera(path) and endings & video.ENDINGS:
            pairs = [(text.replace(":", "-"), path)]
        elif path.is_dir():
            files = [f for f in sorted(path.rglob("*")) if f.suffix.lower() in endings]
            pairs = [(f.relative_to(path).with_suffix("").as_posix(), f) for f in files]
        elif path.is_file():
            pairs = [(path.stem, path)]
        else:
            files = [Path(f) for f in sorted(glob.glob(text, recursive=True))]
            pairs = [(f.stem, f) for f in files if f.suffix.lower() in endings]
        if not pairs:
            raise InputError(f"{text}: no {_kind(endings)} there ({', '.join(sorted(endings))})")
        yield from pairs


def _kind(endings: set[str]) -> str:
    """What files of these endings are called."""
    if not endings & ENDINGS - {".npy"}:
        return "record"
    return "image or video" if endings & video.ENDINGS else "image"


# ---- the bundle


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


def _write_masks(predictor: Predictor, about: dict, options: argparse.Namespace) -> int:
    kind = Kind(about["input"]["channels"], about["input"]["depth"])
    palette, out, overlays = np.array(about["palette"], np.uint8), options.out, options.out / "overlays"

    def image(name: str, path: Path) -> None:
        picture = read(path, kind)
        files = [mask_picture(out / f"{name}.png", picture.shape[:2], palette)]
        if options.overlay:
            files.append(overlay_picture(overlays / f"{name}.png", picture, palette))
        save(predictor.parts(picture), files)
        if options.scores:
            np.save(out / f"{name}.npy", predictor.scores(picture))

    def frames(name: str, path: Path) -> None:
        source = video.Video(str(path), kind, options.frames)
        film = f"{name}{video.film_ending(path)}"
        with ExitStack() as stack:
            mask = stack.enter_context(video.film(out / film, source))
            if options.overlay:
                over = stack.enter_context(video.film(overlays / film, source))
            try:
                for frame in source:
                    ids = predictor.mask(frame)
                    mask(palette[ids])
                    if options.overlay:
                        over(mix(display(frame), ids, palette))
            except KeyboardInterrupt:
                if not source.live:  # a camera has no other end
                    raise

    files = find(options.input, ENDINGS | video.ENDINGS)
    endings = {n: video.film_ending(p) if video.is_video(p) else ".png" for n, p in files.items()}
    names = [f"{name}{ending}" for name, ending in endings.items()]
    refuse_overwriting(files, (home / name for home in (out, overlays) for name in names))
    return _each(files, lambda name, path: (frames if video.is_video(path) else image)(name, path))


def _write_labels(predictor: Predictor, about: dict, options: argparse.Namespace) -> int:
    """For a network of signals, whose bundle has records.py beside this file."""
    from . import records

    form, classes, out = records.Form(**about["form"]), about["classes"], options.out

    def record(name: str, path: Path) -> None:
        signal = records.read_signal(path, form)
        ids = predictor.mask(signal)
        write(out / f"{name}.csv", records.table(ids, classes, form.rate))
        if options.overlay:
            colours = np.array(about["palette"])
            plot = records.plot(signal, ids, classes, colours, form.rate)
            write(out / "overlays" / f"{name}.png", plot)
        if options.scores:
            np.save(out / f"{name}.npy", predictor.scores(signal))

    files = find(options.input, records.ENDINGS)
    refuse_overwriting(files, (out / f"{name}.csv" for name in files))
    return _each(files, record)


def _each(files: dict[str, Path], work: Callable[[str, Path], None]) -> int:
    """Work on every file, and tell of those that can't be used; their number."""
    failed = 0
    for name, path in files.items():
        try:
            work(name, path)
        except (InputError, ValueError) as error:
            print(f"infer.py: {error}", file=sys.stderr)
            failed += 1
    return failed


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Images and videos to masks of the same size.")
    parser.add_argument("input", nargs="+", help="files, folders or globs; camera:0 is a camera")
    parser.add_argument("--out", required=True, type=Path, help="folder for the masks")
    parser.add_argument("--gpu", type=int, metavar="N", help="run on this GPU; the CPU by default")
    parser.add_argument("--overlay", action="store_true", help="write the masks over the images too")
    parser.add_argument("--scores", action="store_true", help="write the raw scores too, as .npy")
    parser.add_argument("--frames", type=int, metavar="N", help="of a video or camera, no more")
    sizes = "average over these sizes: 0.75,1,1.25"
    parser.add_argument("--scales", default="1", metavar="S,S,...", help=sizes)
    parser.add_argument("--flip", action="store_true", help="average with the mirrored image")
    automatic = f"{SIDE} for images of more than {WHOLE / 2**20:g} megapixels"
    side = f"side of a sliding window; 0: the whole image at once; default: {automatic}"
    parser.add_argument("--window", type=int, metavar="N", help=side)
    parser.add_argument("--overlap", type=float, default=0.5, help="share that the next one covers")
    parser.add_argument("--blend", choices=tiling.BLENDS, default="gaussian", help="of the windows")
    parser.add_argument("--format", help="of the bundle's: mxnet by default")
    parser.add_argument("--runtime", choices=runtimes.RUNTIMES, help="what runs the network")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line of a bundle."""
    options = _arguments().parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads.threads()))  # MXNet would use half of them
    import mxnet as mx

    context = mx.cpu() if options.gpu is None else mx.gpu(options.gpu)
    try:
        scales = tuple(float(scale) for scale in options.scales.split(","))
        policy = Policy(scales, options.flip, options.window, options.overlap, options.blend)
        home = Path(__file__).resolve().parent
        net, about = load(home, context, options.format, options.runtime)
        predictor = Predictor(net, context, policy, about["side"], about["stride"])
        failed = (_write_labels if "form" in about else _write_masks)(predictor, about, options)
    except (InputError, OSError, KeyError, ValueError, mx.MXNetError) as error:
        print(f"infer.py: {' '.join(str(error).split())[:300]}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    if failed:
        sys.exit(2)


if __name__ == "__main__":
    main()
