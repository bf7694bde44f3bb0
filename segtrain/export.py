"""Export: a run as a bundle of symbol, parameters and everything else that inference needs.

The bundle is proved before it appears: its own ``infer.py`` runs in a fresh process, and its
masks must be the run's own, pixel for pixel.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import cv2
import mxnet as mx
import numpy as np

import segtrain
from segtrain import infer, parity, records
from segtrain.data import shapes
from segtrain.data.dataset import Dataset, open_split
from segtrain.data.files import read_mask
from segtrain.errors import SegtrainError, UserError
from segtrain.infer import Kind
from segtrain.records import Form
from segtrain.trained import Trained, open_trained

SCHEMA = 1
SCRIPTS = ("infer", "pictures", "tiling", "video")  # what a bundle runs by
ODD, SMALL = (333, 517), (32, 32)  # height, width


def export(run: Path, out: Path) -> dict[str, Any]:
    """Write the bundle of a run's best checkpoint to the new folder `out`; returns its parity.

    UserError where `out` is taken; SegtrainError, and no bundle, where it disagrees with the run.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists: give another --out")
    trained = open_trained(run, "cpu")
    if trained.config is None:
        raise UserError(f"{run} is a bundle already; export takes the run folder that it came from")
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        _write(trained, aside)
        found = check(trained, aside)
        infer.write(aside / "parity.json", json.dumps(found, indent=1).encode())
        if not found["passed"]:
            raise SegtrainError(
                f"the exported network disagrees with the run: {found['differing_pixels']} of "
                f"{found['pixels']} pixels differ; no bundle was written"
            )
        aside.chmod(0o755)
        if out.exists():
            out.rmdir()
        os.rename(aside, out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return found


def _write(trained: Trained, folder: Path) -> None:
    """The bundle's files, but for parity.json."""
    form = trained.form
    blank = np.zeros((trained.stride, trained.stride, trained.kind.channels), np.uint8)
    if form:
        blank = np.zeros((trained.stride, len(form.signal)), np.float32)
        shutil.copyfile(records.__file__, folder / "records.py")
    trained.predictor().scores(blank)  # Gluon exports what has run once
    trained.net.export(str(folder / "model"), epoch=0)
    scripts = [f"{name}.py" for name in SCRIPTS]
    for script in scripts:
        shutil.copyfile(Path(segtrain.__file__).with_name(script), folder / script)
    files = ["model-symbol.json", "model-0000.params", *scripts, *(["records.py"] if form else [])]
    about = {
        "schema": SCHEMA,
        "segtrain": segtrain.__version__,
        "mxnet": mx.__version__,
        **(_of_signals(form) if form else _of_images(trained)),
        "stride": trained.stride,
        "side": trained.side,
        "classes": trained.classes,
        "ignore": trained.ignore,
        "palette": trained.palette.tolist(),
        "score": trained.score,
        "sha256": {f: hashlib.sha256((folder / f).read_bytes()).hexdigest() for f in files},
    }
    infer.write(folder / "model.json", json.dumps(about).encode())


def _of_images(trained: Trained) -> dict[str, Any]:
    """What goes in and out, for model.json."""
    return {
        "input": {
            "name": "data",
            "layout": "NCHW",
            "dtype": "uint8 or float32",
            "values": "raw pixels, as the file holds them: the network normalises them itself",
            "channels": trained.kind.channels,
            "depth": trained.kind.depth,
            "order": {1: "grey", 3: "RGB"}.get(trained.kind.channels, "as in the files"),
            "sides": "any" if trained.side is None else f"{trained.side}; infer.py goes in windows",
        },
        "output": {"layout": "NCHW", "values": "class scores (logits), the input's size"},
    }


def _of_signals(form: Form) -> dict[str, Any]:
    """What goes in and out, for model.json; `form` is how infer.py reads records."""
    return {
        "input": {
            "name": "data",
            "layout": "NCL",
            "dtype": "float32",
            "values": "mean 0, deviation 1 over the record" if form.standardise else "as in the file",
            "channels": form.signal,
            "sides": "any",
        },
        "output": {"layout": "NCL", "values": "class scores (logits), the input's length"},
        "form": form._asdict(),
    }


def check(trained: Trained, bundle: Path) -> dict[str, Any]:
    """Compare a bundle, run by its own infer.py in a fresh process, with the trained network.

    On real validation images or records at three sizes (on synthetic ones where the dataset is
    gone): the image's own, an odd one and a small one. Passes where every pixel has the same class.
    """
    compared = parity.compare(trained, bundle, _run) if trained.form else _compared(trained, bundle)
    rows, source = compared
    differing, pixels = (sum(row[key] for row in rows) for key in ("differing_pixels", "pixels"))
    return {
        "format": "mxnet",
        "passed": differing == 0,
        "bar": "the same class at every pixel",
        "images_from": source,
        "pixels": pixels,
        "differing_pixels": differing,
        "equal_argmax": 1 - differing / pixels,
        "max_abs_difference": max(row["max_abs_difference"] for row in rows),
        "images": rows,
    }


def _store(image: np.ndarray, stem: Path, kind: Kind) -> None:
    """Write an image as infer.py is to read it: a PNG where one can hold it, else an array."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    if kind.depth == 32 or kind.channels not in (1, 3, 4) or image.min() < 0:
        np.save(f"{stem}.npy", image)
        return
    swap = {3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}.get(kind.channels)
    stored = image.astype(np.uint16 if kind.depth == 16 else np.uint8)
    cv2.imwrite(f"{stem}.png", stored if swap is None else cv2.cvtColor(stored, swap))


def _compared(trained: Trained, bundle: Path) -> tuple[list[dict[str, Any]], str]:
    """A row for each image, and where they are from."""
    images, source = _images(trained)
    rows = []
    with tempfile.TemporaryDirectory() as home:
        given, made = Path(home) / "images", Path(home) / "masks"
        for name, image in images.items():
            _store(image, given / name, trained.kind)
        _run(bundle / "infer.py", given, made)
        for name, image in images.items():
            rows.append(_compare(trained, image, made / name))
    return rows, source


def _run(script: Path, images: Path, out: Path) -> None:
    command = [sys.executable, str(script.resolve()), str(images), "--out", str(out), "--scores"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=out.parent, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise SegtrainError(f"the bundle's infer.py failed ({last}); no bundle was written")


def _compare(trained: Trained, image: np.ndarray, made: Path) -> dict[str, Any]:
    predictor = trained.predictor()
    difference = np.abs(np.load(f"{made}.npy") - predictor.scores(image))
    differs = read_mask(Path(f"{made}.png")) != predictor.mask(image)
    return {
        "height": image.shape[0],
        "width": image.shape[1],
        "pixels": int(differs.size),
        "differing_pixels": int(differs.sum()),
        "max_abs_difference": float(difference.max()),
        "mean_abs_difference": float(difference.mean()),
    }


def _images(trained: Trained) -> tuple[dict[str, np.ndarray], str]:
    """Three images (H, W, C), and where they are from."""
    assert trained.config is not None
    try:
        images, source = _first(open_split(trained.config.data, "val")), "the validation split"
    except UserError as error:
        pictures = _first(shapes.build("val", size=(360, 480), val=3))
        images = [_as_kind(picture, trained.kind) for picture in pictures]
        source = f"synthetic shapes ({error})"
    sizes = [images[0].shape[:2], ODD, SMALL]
    names = [f"{height}x{width}" for height, width in sizes]
    return {
        f"{i}-{name}": _resized(image, width, height, trained.kind)
        for i, (name, image, (height, width)) in enumerate(zip(names, images, sizes))
    }, source


def _as_kind(picture: np.ndarray, kind: Kind) -> np.ndarray:
    """A picture (H, W, 3) uint8 as an image of the kind, its channels repeated."""
    image = picture[..., np.arange(kind.channels) % 3]
    return image if kind.depth == 8 else image.astype(np.float32) * (257 if kind.depth == 16 else 1)


def _resized(image: np.ndarray, width: int, height: int, kind: Kind) -> np.ndarray:
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return (np.rint(image) if kind.depth == 16 else image).reshape(height, width, -1)


def _first(dataset: Dataset) -> list[np.ndarray]:
    """The first three images, the last one again where there are fewer."""
    return [dataset.read(min(i, len(dataset.ids) - 1)).image for i in range(3)]
