"""Masks for images, videos, cameras and signals: files, folders and globs in, masks or labels out.

While the network runs, threads read the next inputs and write the files of the last ones; the order
stays that of the inputs. An image so large that it goes through in windows has the memory for itself.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from contextlib import ExitStack, closing
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Union

import numpy as np
from PIL import Image
from tqdm import tqdm

from segtrain.bar import Bar
from segtrain.errors import Stopped, UserError
from segtrain.prediction import infer, pictures
from segtrain.prediction.infer import Part, Policy, Predictor
from segtrain.prediction.journal import Journal
from segtrain.prediction.pictures import InputError
from segtrain.prediction.pipeline import ahead, chunks, ordered
from segtrain.prediction.polygons import Coco
from segtrain.prediction.products import OfImages, OfRecords, Products
from segtrain.prediction.records import RecordError
from segtrain.prediction.video import Video, film, is_video
from segtrain.trained import Trained

Make = Union[OfImages, OfRecords]

# of images that we are ready for
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class How(NamedTuple):
    """How the inputs are worked through.

    model: the identity of the network, as `journal.fingerprint` gives it; resume: leave out inputs
    whose files are there already; batch: images of one size, or windows, at a time, None: as many as
    `Predictor` chooses; workers: threads that read, and as many that write; frames: of each video,
    no more; each_frame: write the files of an image for each of them too.
    """

    model: str = ""
    resume: bool = False
    batch: Optional[int] = None
    workers: int = 2
    frames: Optional[int] = None
    each_frame: bool = False


class Done(NamedTuple):
    """An input that is done: figures of it for JSON, or why it can't be used."""

    name: str
    path: Path
    results: Dict[str, Any]
    error: Optional[Exception] = None


class Given(NamedTuple):
    """An input that was read: None in place of a large image, to be read when its turn comes."""

    name: str
    path: Path
    image: Union[np.ndarray, Exception, None]


def predict(
    trained: Trained,
    inputs: Sequence[str],
    out: Path,
    policy: Policy = Policy(),
    products: Products = Products(),
    how: How = How(),
    stop: Callable[[], bool] = lambda: False,
) -> Dict[str, Any]:
    """Write a mask for each input into `out`, and what else is wanted; the result for JSON.

    Keys: masks (paths), classes, inputs[{name, source, mask, and entropy, frames, rate}], skipped
    (how many were there already), failed[{source, error}], stopped, cut_off{source, frames, count}
    (the video that stopping has cut off, or None), seconds. UserError where an input is missing or
    would be overwritten; where some can't be used, the others are done. For a network of signals a
    mask is a CSV, and an overlay a plot.
    """
    make = OfRecords(out, trained, products) if trained.form else OfImages(out, trained, products)
    files = _found(inputs, make, products, how)
    predictor = trained.predictor(policy)
    predictor.batch = how.batch
    head = {"model": how.model, "policy": policy._asdict(), "frames": how.frames}
    journal = Journal(out, head, how.resume)
    lines = {n: journal.done(n, p, _targets(make, n, p, how)) for n, p in files.items()}
    left = {n: p for n, p in files.items() if lines[n] is None}
    skipped, failed, start = len(files) - len(left), [], time.perf_counter()
    session = _Session(make, predictor, products.soft, how, stop)
    with Bar(total=len(files), initial=skipped, desc="predict", unit="input") as bar:
        for done in session.run(left):
            bar.update()
            if done.error:
                failed.append({"source": str(done.path), "error": str(done.error)})
                tqdm.write(f"segtrain: {done.error}", file=sys.stderr)
            else:
                lines[done.name] = journal.add(done.name, done.path, done.results)
    if products.polygons == "coco" and not session.stopped:
        pictures.write(out / "polygons.json", _coco(trained.classes, files, lines, make))
    found = [line for line in lines.values() if line is not None]
    return {
        "masks": [line["mask"] for line in found],
        "classes": trained.classes,
        "inputs": found,
        "skipped": skipped,
        "failed": failed,
        "stopped": session.stopped,
        "cut_off": session.cut_off,
        "seconds": time.perf_counter() - start,
    }


def _found(inputs: Sequence[str], make: Make, products: Products, how: How) -> Dict[str, Path]:
    """The inputs by name; UserError where one is missing, or can't have what is wanted."""
    try:
        files = infer.find(inputs, make.endings)
        _check(files, products, how)
        infer.refuse_overwriting(files, (t for n, p in files.items() for t in _targets(make, n, p, how)))
    except InputError as error:
        raise UserError(str(error)) from None
    return files


def _check(files: Dict[str, Path], products: Products, how: How) -> None:
    """UserError where what is wanted can't be had of videos."""
    videos = [path for path in files.values() if is_video(path)]
    of_frames = products._replace(overlay=False) != Products()
    if videos and of_frames and not how.each_frame:
        raise UserError(
            f"{videos[0]} is a video, which gets a mask and an overlay; for colours, entropy, "
            "probabilities or polygons of its frames add --each-frame"
        )


def _targets(make: Make, name: str, path: Path, how: How) -> List[Path]:
    """All files of an input, of a video's frames the first one's."""
    if isinstance(make, OfRecords) or not is_video(path):
        return [target for targets in make.targets(name).values() for target in targets]
    first = make.targets(_frame(name, 0)).values() if how.each_frame else []
    return [*make.films(name, path), *(target for targets in first for target in targets)]


def _frame(name: str, number: int) -> str:
    return f"{name}/{number:06d}"


def _coco(
    classes: Sequence[str],
    files: Dict[str, Path],
    lines: Dict[str, Optional[Dict[str, Any]]],
    make: Make,
) -> bytes:
    """A COCO file of the masks that were written."""
    coco = Coco(classes)
    for name, path in files.items():
        line = lines[name]
        if line is None:
            continue
        frames = [_frame(name, i) for i in range(line["frames"])] if is_video(path) else [name]
        for frame in frames:
            mask = pictures.ids(make.targets(frame)["mask"][0].read_bytes())
            coco.add(mask, frame if is_video(path) else f"{name}{path.suffix}")
    return json.dumps(coco.content()).encode()


class _Session:
    """The inputs on their way through the network; `stopped` once it was asked to stop.

    cut_off: the video that this left unfinished.
    """

    def __init__(
        self,
        make: Make,
        predictor: Predictor,
        soft: bool,
        how: How,
        stop: Callable[[], bool],
    ):
        self._make, self._predictor, self._soft, self._how = make, predictor, soft, how
        self._stop, self.stopped, self._told = stop, False, False
        self.cut_off: Optional[Dict[str, Any]] = None

    def run(self, files: Dict[str, Path]) -> Iterator[Done]:
        """Do the images or records, then the videos; each as its files are whole, or it fails."""
        videos = {n: p for n, p in files.items() if isinstance(self._make, OfImages) and is_video(p)}
        rest = {name: path for name, path in files.items() if name not in videos}
        # matplotlib, which plots records, is for one thread
        writers = self._how.workers if isinstance(self._make, OfImages) else 1
        for future in ordered(self._written(rest), writers):
            yield future.result()
        for name, path in videos.items():
            if self._asked():
                return
            try:
                yield Done(name, path, self._video(name, path))
            except InputError as error:
                yield Done(name, path, {}, error)
            except Stopped:
                return

    def _asked(self) -> bool:
        self.stopped = self.stopped or self._stop()
        return self.stopped

    # ---- images and records

    def _written(self, files: Dict[str, Path]) -> Iterator[Callable[[], Done]]:
        """What writes the files of each input, once the network has seen it."""
        group: List[Given] = []  # images of one size, which go together
        tasks = (partial(self._read, name, path) for name, path in files.items())
        for future in ordered(tasks, self._how.workers):
            given = future.result()
            if self._asked():
                return
            if group and _size(given) != _size(group[0]):
                yield from self._together(group)
                group = []
            if isinstance(given.image, Exception):
                yield partial(Done, given.name, given.path, {}, given.image)
            elif given.image is None or self._predictor.windows(given.image.shape):
                yield partial(Done, *self._alone(given))
            else:
                group.append(given)
            if group and len(group) == self._predictor.together(_size(group[0]) or ()):
                yield from self._together(group)
                group = []
        yield from self._together(group)

    def _read(self, name: str, path: Path) -> Given:
        try:
            large = path.suffix.lower() in pictures.ENDINGS and _pixels(path) > infer.WHOLE
            return Given(name, path, None if large else self._make.read(path))
        except (InputError, RecordError) as error:
            return Given(name, path, error)

    def _alone(self, given: Given) -> Done:
        """Do a large image, a part at a time."""
        results: Dict[str, Any] = {}
        try:
            image = self._make.read(given.path) if given.image is None else given.image
            assert isinstance(image, np.ndarray)
            self._tell(given.path, image.shape)
            files = self._make.files(given.name, str(given.path), image, results)
            infer.save(self._predictor.parts(image, self._soft), files)
        except InputError as error:
            return Done(given.name, given.path, {}, error)
        return self._done(given, results)

    def _tell(self, path: Path, shape: Sequence[int]) -> None:
        """Say once that an image goes through in windows, where nobody asked for that."""
        windows = self._predictor.windows(shape)
        if windows and self._predictor.policy.window is None and not self._told:
            self._told = True
            tqdm.write(
                f"{path}: {shape[0] * shape[1] / 2**20:.0f} megapixels, so in windows of {windows.side} "
                f"that overlap by {windows.overlap:.0%} (--window 0 for the whole at once)",
                file=sys.stderr,
            )

    def _together(self, group: Sequence[Given]) -> Iterator[Callable[[], Done]]:
        """What writes the files of images of one size."""
        images = [given.image for given in group if isinstance(given.image, np.ndarray)]
        for given, image, part in zip(group, images, self._each(images) if images else []):
            yield partial(self._save, given, image, part)

    def _each(self, images: Sequence[np.ndarray]) -> List[Part]:
        return self._predictor.each(images, self._soft)

    def _save(self, given: Given, image: np.ndarray, part: Part) -> Done:
        results: Dict[str, Any] = {}
        infer.save([part], self._make.files(given.name, str(given.path), image, results))
        return self._done(given, results)

    def _done(self, given: Given, results: Dict[str, Any]) -> Done:
        mask = self._make.targets(given.name)["mask"][0]
        return Done(given.name, given.path, {"mask": str(mask), **results})

    # ---- videos

    def _video(self, name: str, source: Path) -> Dict[str, Any]:
        """Write the films of a video; figures of it. Stopped where they can't become whole."""
        assert isinstance(self._make, OfImages)
        video, figures = self._make.open(str(source), self._how.frames), []
        paths = self._make.films(name, source)
        with ExitStack() as stack:
            films = [stack.enter_context(film(path, video)) for path in paths]
            bar = Bar(total=video.count, desc=name, unit="frame", leave=False)
            stack.enter_context(bar)
            for future in stack.enter_context(closing(ordered(self._shots(name, video, films), 1))):
                figures.append(future.result())
                bar.update()
            if not figures or (self.stopped and not video.live):
                self.cut_off = {"source": str(source), "frames": len(figures), "count": video.count}
                raise Stopped(f"stopped in {source}")
        means = {key: float(np.mean([f[key] for f in figures])) for key in figures[0]}
        return {"mask": str(paths[0]), "frames": len(figures), "rate": video.rate, **means}

    def _shots(self, name: str, video: Video, films: Sequence[Any]) -> Iterator[Callable[[], Any]]:
        """What writes each frame, once the network has seen it."""
        numbers = count()
        at_a_time = 1 if video.live else self._predictor.together(video.size)
        for frames in chunks(ahead(iter(video)), at_a_time):
            if self._asked():
                return
            for frame, part in zip(frames, self._each(frames)):
                yield partial(self._shoot, _frame(name, next(numbers)), frame, part, films)

    def _shoot(self, name: str, frame: np.ndarray, part: Part, films: Sequence[Any]) -> Dict[str, Any]:
        assert isinstance(self._make, OfImages)
        results: Dict[str, Any] = {}
        for add, picture in zip(films, self._make.shot(frame, part.ids)):
            add(picture)
        if self._how.each_frame:
            infer.save([part], self._make.files(name, name, frame, results))
        return results


def _size(given: Given) -> Optional[Sequence[int]]:
    return given.image.shape if isinstance(given.image, np.ndarray) else None


def _pixels(path: Path) -> int:
    """How many an image has by its header; 0 where that can't be read."""
    try:
        if path.suffix.lower() == ".npy":
            shape = np.load(path, mmap_mode="r").shape
            return shape[0] * shape[1]
        with Image.open(path) as file:
            return file.width * file.height
    except Image.DecompressionBombError:
        return sys.maxsize
    except Exception:  # whatever is wrong with it, reading it will tell
        return 0
