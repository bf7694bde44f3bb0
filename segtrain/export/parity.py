"""Parity of a bundle: its own infer.py in a fresh process, format by format, against the run."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import cv2
import numpy as np

from segtrain import plugins
from segtrain.data import shapes
from segtrain.data.dataset import Dataset, Sample, open_split
from segtrain.data.files import read_mask
from segtrain.errors import SegtrainError, UserError
from segtrain.evaluation import metrics
from segtrain.prediction import infer, records
from segtrain.prediction.infer import Kind
from segtrain.prediction.records import Form
from segtrain.trained import Trained

ODD, SMALL = (333, 517), (32, 32)  # height, width; a signal's length is the first
SCORED = 50  # images, at most, on which the mIoU of each format is compared


class Samples(NamedTuple):
    """What a bundle is proved on: three images or records, and some with their truth.

    compared: by name, at three sizes: the first's own, an odd one and a small one; scored: of the
    validation split, evenly spread over it, as they are; empty where the dataset is gone. All of
    them are files too, in the folders `home`/compared and `home`/scored.
    """

    compared: Dict[str, np.ndarray]
    scored: Dict[str, Sample]
    source: str
    home: Path


class Own(NamedTuple):
    """What the run itself says of the samples: scores of those compared, masks of all."""

    scores: Dict[str, np.ndarray]
    masks: Dict[str, np.ndarray]
    miou: Optional[float]


def samples(trained: Trained, home: Path) -> Samples:
    """Validation images or records, written to `home` too; synthetic where the dataset is gone."""
    assert trained.config is not None
    try:
        dataset = open_split(trained.config.data, "val", trained.classes)
        count = len(dataset.ids)
        chosen = np.unique(np.linspace(0, count - 1, min(SCORED, count)).round().astype(int))
        scored = {f"{i:06d}": dataset.read(int(i)) for i in chosen}
        three, source = _first(dataset), f"the validation split ({len(chosen)} of {count} scored)"
    except UserError as error:
        three, scored, source = _synthetic(trained), {}, f"synthetic ({error})"
    lengths = [(three[0].shape[:2], ODD, SMALL), (three[0].shape[:1], ODD[:1], SMALL[:1])]
    sizes = lengths[trained.form is not None]
    resized = [_resized(image, size, trained) for image, size in zip(three, sizes)]
    named = {f"{i}-{'x'.join(map(str, x.shape[:-1]))}": x for i, x in enumerate(resized)}
    compared = {name: _stored(x, home / "compared" / name, trained) for name, x in named.items()}
    scored = {
        name: sample._replace(image=_stored(sample.image, home / "scored" / name, trained))
        for name, sample in scored.items()
    }
    return Samples(compared, scored, source, home)


def own(trained: Trained, on: Samples) -> Own:
    """The run's own scores, masks and mIoU."""
    predictor = trained.predictor()
    scores = {name: predictor.scores(image) for name, image in on.compared.items()}
    images = {**on.compared, **{name: sample.image for name, sample in on.scored.items()}}
    masks = {name: predictor.mask(image) for name, image in images.items()}
    return Own(scores, masks, _miou(trained, on, masks))


def prove(trained: Trained, bundle: Path, name: str, on: Samples, of_run: Own) -> Dict[str, Any]:
    """Compare a format of a bundle, run by its infer.py in a fresh process, with the run itself.

    Keys: passed, bar, differing_pixels, equal_argmax, max_abs_difference, mean_abs_difference,
    miou, miou_of_run, and a row for each of the images that are compared pixel by pixel.
    """
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder)
        _infer(bundle, name, on.home / "compared", made / "compared", "--scores")
        rows = [_row(trained, stem, made / "compared", of_run) for stem in on.compared]
        miou = None
        if on.scored:
            _infer(bundle, name, on.home / "scored", made / "scored")
            found = {stem: _mask(trained, made / "scored" / stem) for stem in on.scored}
            miou = _miou(trained, on, found)
    return judged(name, rows, on, miou, of_run.miou)


def judged(
    name: str, rows: List[Dict[str, Any]], on: Samples, miou: Optional[float], of_run: Optional[float]
) -> Dict[str, Any]:
    """The comparison as a whole, and whether it passes the format's bar."""
    module = plugins.find("formats", name)
    differing, pixels = (sum(row[key] for row in rows) for key in ("differing_pixels", "pixels"))
    found = {
        "format": name,
        "bar": module.BAR,
        "images_from": on.source,
        "pixels": pixels,
        "differing_pixels": differing,
        "equal_argmax": 1 - differing / pixels,
        "max_abs_difference": max(row["max_abs_difference"] for row in rows),
        "mean_abs_difference": sum(r["mean_abs_difference"] * r["pixels"] for r in rows) / pixels,
        "miou": miou,
        "miou_of_run": of_run,
        "scored_images": len(on.scored),
        "images": rows,
    }
    return {**found, "passed": bool(module.passed(found))}


def _infer(bundle: Path, name: str, given: Path, made: Path, *options: str) -> None:
    command = [sys.executable, str((bundle / "infer.py").resolve()), str(given), "--out", str(made)]
    command += ["--format", name, *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=given.parent, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise SegtrainError(f"the bundle's infer.py failed on {name} ({last}); no bundle was written")


def _row(trained: Trained, stem: str, made: Path, of_run: Own) -> Dict[str, Any]:
    scores, mask = np.load(made / f"{stem}.npy"), _mask(trained, made / stem)
    difference = np.abs(scores - of_run.scores[stem])
    size = {"length": len(mask)} if trained.form else dict(zip(("height", "width"), mask.shape))
    return {
        **size,
        "pixels": int(mask.size),
        "differing_pixels": int((mask != of_run.masks[stem]).sum()),
        "max_abs_difference": float(difference.max()),
        "mean_abs_difference": float(difference.mean()),
    }


def _miou(trained: Trained, on: Samples, masks: Dict[str, np.ndarray]) -> Optional[float]:
    if not on.scored:
        return None
    matrices = [
        metrics.confusion(sample.mask, masks[stem], len(trained.classes), trained.ignore)
        for stem, sample in on.scored.items()
    ]
    return metrics.number(metrics.miou(metrics.counts(np.sum(matrices, axis=0))))


# ---- images and records as files


def _stored(image: np.ndarray, stem: Path, trained: Trained) -> np.ndarray:
    """Write what infer.py is to read, a record as CSV, an image as PNG where one can hold it.

    Returns what is read back: a record's numbers differ in the last place, once standardised.
    """
    stem.parent.mkdir(parents=True, exist_ok=True)
    kind = trained.kind
    if trained.form:
        path = stem.with_name(f"{stem.name}.csv")
        infer.write(path, _csv(image, trained.form))
        return records.read_signal(path, trained.form)
    if kind.depth == 32 or kind.channels not in (1, 3, 4) or image.min() < 0:
        np.save(f"{stem}.npy", image)
        return image
    swap = {3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}.get(kind.channels)
    stored = image.astype(np.uint16 if kind.depth == 16 else np.uint8)
    cv2.imwrite(f"{stem}.png", stored if swap is None else cv2.cvtColor(stored, swap))
    return image


def _csv(signal: np.ndarray, form: Form) -> bytes:
    lines = [",".join(form.signal), *(",".join(map(repr, row)) for row in signal.tolist())]
    return "\n".join([*lines, ""]).encode()


def _mask(trained: Trained, stem: Path) -> np.ndarray:
    if trained.form is None:
        return read_mask(Path(f"{stem}.png"))
    return records.read_columns(Path(f"{stem}.csv"), ["class"])["class"].astype(np.uint8)


def _first(dataset: Dataset) -> List[np.ndarray]:
    """The first three, the last one again where there are fewer."""
    return [dataset.read(min(i, len(dataset.ids) - 1)).image for i in range(3)]


def _synthetic(trained: Trained) -> List[np.ndarray]:
    if trained.form:
        size = (1000, len(trained.form.signal))
        return [np.random.default_rng(i).normal(size=size).astype(np.float32) for i in range(3)]
    pictures = _first(shapes.build("val", size=(360, 480), val=3))
    return [_as_kind(picture, trained.kind) for picture in pictures]


def _as_kind(picture: np.ndarray, kind: Kind) -> np.ndarray:
    """A picture (H, W, 3) uint8 as an image of the kind, its channels repeated."""
    image = picture[..., np.arange(kind.channels) % 3]
    return image if kind.depth == 8 else image.astype(np.float32) * (257 if kind.depth == 16 else 1)


def _resized(image: np.ndarray, size: Tuple[int, ...], trained: Trained) -> np.ndarray:
    """An image at that height and width; a record cut off at that length."""
    if trained.form:
        return image[: size[0]]
    if image.shape[:2] == size:
        return image
    image = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
    return (np.rint(image) if trained.kind.depth == 16 else image).reshape(*size, -1)
