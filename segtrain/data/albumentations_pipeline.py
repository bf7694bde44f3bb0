"""Pipelines of Albumentations as one augmentation, from the files that `albumentations.save` writes.

Such a file holds names of transforms and plain values. A name is looked up among Albumentations'
own transforms and nowhere else, so that no file can make other code run.
"""

from __future__ import annotations

import hashlib
import json
import random
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Iterator, NamedTuple

import numpy as np
import yaml

from segtrain.data.dataset import Sample
from segtrain.errors import UserError, nearest, one_line

NORMALISING = {"Normalize", "ToFloat", "FromFloat", "ToTensorV2"}


class Pipeline(NamedTuple):
    """A file's name and its content, from which each process makes the transforms anew."""

    file: str
    content: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content.encode()).hexdigest()


def albumentations(rng: np.random.Generator, whole: Sample, ignore: int, pipeline: Pipeline) -> Sample:
    """A pipeline of Albumentations, applied to the whole sample before it is cropped.

    Where a transform fills the mask with 0, as it does beyond the border, the mask is `ignore`.
    Floating-point images are scaled to 0..1 by their least and greatest value for it, and back.
    """
    low, high = (0, 1) if whole.image.dtype == np.uint8 else (whole.image.min(), whole.image.max())
    image = whole.image.copy() if (low, high) == (0, 1) else (whole.image - low) / max(high - low, 1e-12)
    given = {"image": image, "mask": whole.mask.copy(), "inside": np.ones_like(whole.mask)}
    try:
        with _seeded(int(rng.integers(2**32))):
            made = _transforms(pipeline)(**given)
    except UserError:
        raise
    except Exception as error:  # each of its transforms raises what it likes
        text = one_line(error)
        raise UserError(f"{pipeline.file}: Albumentations: {type(error).__name__}: {text}") from None
    image = made["image"].reshape(*made["mask"].shape, -1)
    mask = np.where(made["inside"] == 0, ignore, made["mask"]).astype(np.uint8)
    _check(pipeline, whole, Sample(image, mask), ignore)
    return Sample(image if (low, high) == (0, 1) else image * (high - low) + low, mask)


def read(file: str) -> Pipeline:
    """The pipeline in a .json or .yaml file; UserError where none can be made of it."""
    try:
        pipeline = Pipeline(file, Path(file).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"data.augment: albumentations({file}): {getattr(error, 'strerror', None) or error}; give "
            "a file that albumentations.save(pipeline, FILE) wrote"
        ) from None
    _transforms(pipeline)
    return pipeline


@lru_cache(maxsize=8)
def _transforms(pipeline: Pipeline) -> Any:
    """The pipeline, which takes image, mask and `inside`, a second mask."""
    try:
        import albumentations as library
        from albumentations.core import serialization
    except ImportError as error:
        raise UserError(
            f"data.augment: albumentations({pipeline.file}) needs Albumentations ({error}): "
            "pip install 'segtrain[albumentations]'"
        ) from None
    parse = json.loads if pipeline.file.endswith(".json") else yaml.safe_load
    try:
        transform = parse(pipeline.content)["transform"]
    except (ValueError, yaml.YAMLError, TypeError, KeyError):
        raise UserError(
            f"{pipeline.file}: not a pipeline as albumentations.save(pipeline, FILE) writes it, as "
            ".json, or as .yaml with data_format='yaml'"
        ) from None
    _check_names(transform, pipeline.file, serialization)
    try:
        made = serialization.from_dict({"transform": transform})
        return library.Compose([made], additional_targets={"inside": "mask"})
    except Exception as error:  # of wrong arguments
        raise UserError(f"{pipeline.file}: {type(error).__name__}: {error}") from None


def _check_names(transform: Any, file: str, serialization: Any) -> None:
    """UserError for what isn't one of Albumentations' own transforms, or spoils masks or values."""
    if not isinstance(transform, dict) or not isinstance(transform.get("__class_fullname__"), str):
        raise UserError(f"{file}: {str(transform)[:80]!r} is no transform with a __class_fullname__")
    known = {
        name: kind
        for name, kind in serialization.SERIALIZABLE_REGISTRY.items()
        if kind.__module__.split(".")[0] == "albumentations"
    }
    name = serialization.shorten_class_name(transform["__class_fullname__"])
    if name in NORMALISING:
        raise UserError(f"{file}: take out {name}: the network normalises, by data.mean and data.std")
    if name not in known:
        raise UserError(f"{file}: Albumentations has no {name!r} to load; {nearest(name, known)}")
    if transform.get("mask_interpolation"):
        raise UserError(f"{file}: {name}: mask_interpolation must be 0, nearest: masks hold ids")
    for inner in transform.get("transforms", []):
        _check_names(inner, file, serialization)


def _check(pipeline: Pipeline, before: Sample, after: Sample, ignore: int) -> None:
    """UserError where the pipeline changes the type or the channels, or makes new ids."""
    if after.image.dtype != before.image.dtype or after.image.shape[2] != before.image.shape[2]:
        kinds = [f"{i.dtype} with {i.shape[2]} channels" for i in (before.image, after.image)]
        raise UserError(f"{pipeline.file} makes of {kinds[0]} an image of {kinds[1]}")
    held, was = (np.bincount(sample.mask.ravel(), minlength=256) > 0 for sample in (after, before))
    strange = [value for value in np.flatnonzero(held & ~was).tolist() if value != ignore]
    if strange:
        raise UserError(
            f"{pipeline.file} puts {strange[0]} into a mask that doesn't hold it: let transforms fill "
            f"masks with {ignore}, the id that is ignored, or leave their mask values out"
        )


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Albumentations draws from Python's and numpy's own generators, which are put back after it."""
    python, numpy = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
