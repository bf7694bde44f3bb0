"""Augmentation: geometry composed into one warp of image and mask, then all that changes the crop.

An augmentation is a function here, and its arguments are what the config gives, as in
``scale(0.5, 2)``. Its parameter after `rng` tells what it does: it changes an `image`, or a `sample`
with its mask; it is handed `others` to put into one; it bends a `crop`; it changes the `whole`
sample before all this; or it returns a map.
"""

from __future__ import annotations

import ast
import inspect
import re
from typing import Any, Callable, NamedTuple, Sequence

import cv2
import numpy as np

from segtrain import plugins
from segtrain.data import albumentations_pipeline
from segtrain.data.albumentations_pipeline import albumentations
from segtrain.data.crop import Rng, Window, bent, foreground_classes, placed, warp
from segtrain.data.dataset import Sample
from segtrain.errors import UserError

Others = Callable[[Sequence[int]], Sample]
"""Gives a crop (height, width) of a sample drawn at random, made like any other crop."""


# ---- geometry: 3x3 maps of pixel coordinates (x, y, 1) about the image's centre


def scale(rng: Rng, low: float, high: float) -> np.ndarray:
    """Zoom by a factor between `low` and `high`, uniform in its logarithm."""
    factor = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    return np.diag([factor, factor, 1.0])


def flip(rng: Rng, probability: float = 0.5) -> np.ndarray:
    """Mirror left and right."""
    return np.diag([-1.0 if rng.random() < probability else 1.0, 1.0, 1.0])


def vflip(rng: Rng, probability: float = 0.5) -> np.ndarray:
    """Mirror top and bottom."""
    return np.diag([1.0, -1.0 if rng.random() < probability else 1.0, 1.0])


def rotate(rng: Rng, degrees: float) -> np.ndarray:
    """Turn by up to `degrees` either way."""
    angle = np.deg2rad(rng.uniform(-degrees, degrees))
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])


# ---- colour: images (H, W, C), uint8 of 0 to 255, or float32 of any range


def color(rng: Rng, image: np.ndarray, strength: float) -> np.ndarray:
    """Brightness, contrast and saturation, each by a factor of 1 - strength to 1 + strength."""
    brightness, contrast, saturation = rng.uniform(1 - strength, 1 + strength, 3)
    channels, mean = image.shape[2], float(image.mean())
    grey = np.full((channels, channels), (1 - saturation) / channels)
    mix = brightness * contrast * (grey + saturation * np.eye(channels))
    shift = np.full((channels, 1), brightness * (1 - contrast) * mean)
    return cv2.transform(image, np.hstack([mix, shift])).reshape(image.shape)


def blur(rng: Rng, image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of up to `sigma` pixels, in half of the samples."""
    width = rng.uniform(0, sigma) if rng.random() < 0.5 else 0
    return cv2.GaussianBlur(image, (0, 0), width).reshape(image.shape) if width > 0.1 else image


def noise(rng: Rng, image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian noise of up to `sigma` grey levels, of which float32 images have 255 in their range."""
    grain = rng.standard_normal(image.shape, np.float32) * rng.uniform(0, sigma)
    if image.dtype != np.uint8:
        return image + grain * (np.ptp(image) / np.float32(255))
    return np.clip(np.rint(image + grain), 0, 255).astype(np.uint8)


# ---- bends: a field (height, width, 2) by which each pixel of the crop looks elsewhere, x and y


def elastic(rng: Rng, crop: Sequence[int], sigma: float) -> np.ndarray:
    """Displacements of deviation `sigma` pixels on a 3x3 grid, bicubic between them.

    Ronneberger et al. 2015, section 3.1, who take 10 pixels.
    """
    grid = rng.normal(0, sigma, (3, 3, 2)).astype(np.float32)
    return cv2.resize(grid, (crop[1], crop[0]), interpolation=cv2.INTER_CUBIC)


# ---- both image and mask


def cutout(rng: Rng, sample: Sample, ignore: int, share: float) -> Sample:
    """A rectangle with sides of up to `share` of the crop's: its mean in the image, ignored in the mask.

    DeVries & Taylor 2017, section 3.
    """
    size = np.array(sample.mask.shape)
    sides = np.ceil(size * min(share, 1) * rng.random(2)).astype(int)
    first = rng.integers(0, size - sides + 1)
    part = tuple(slice(a, a + n) for a, n in zip(first, sides))
    image, mask = sample.image.copy(), sample.mask.copy()
    image[part] = image.mean(axis=(0, 1))
    mask[part] = ignore
    return Sample(image, mask)


# ---- several samples in one


def mosaic(rng: Rng, others: Others, sample: Sample, probability: float = 0.5) -> Sample:
    """Four crops of different samples, that meet in a random point of the middle half.

    Bochkovskiy et al. 2020, section 3.4.
    """
    if rng.random() >= probability:
        return sample
    size = np.array(sample.mask.shape)
    middle = np.rint(size * rng.uniform(0.25, 0.75, 2)).astype(int)
    corners = [(y, x) for y in (0, 1) for x in (0, 1)]
    del corners[rng.integers(4)]  # which stays as it is
    image, mask = sample.image.copy(), sample.mask.copy()
    for corner in corners:
        part = tuple(slice(m, n) if far else slice(0, m) for far, m, n in zip(corner, middle, size))
        if mask[part].size:
            image[part], mask[part] = others(mask[part].shape)
    return Sample(image, mask)


def copy_paste(
    rng: Rng, others: Others, sample: Sample, ignore: int, probability: float = 0.5
) -> Sample:
    """Objects of another sample's crop, at their places: about half of those of one class.

    The class is drawn from those in that crop but the first, each as likely; an object is a
    connected region of it, and one at least is copied, image and mask, without a soft border.
    Ghiasi et al. 2021, section 3.
    """
    if rng.random() >= probability:
        return sample
    image, mask = others(sample.mask.shape)
    classes = foreground_classes(mask, ignore)
    if not classes:
        return sample
    count, objects = cv2.connectedComponents((mask == rng.choice(classes)).astype(np.uint8))
    chosen = np.append(False, rng.random(count - 1) < 0.5)  # the 0th is all the rest
    chosen[rng.integers(1, count)] = True
    here = chosen[objects]
    return Sample(np.where(here[..., None], image, sample.image), np.where(here, mask, sample.mask))


# ---- the pipeline

_GIVEN = ("whole", "image", "signal", "crop", "sample", "others", "ignore")


class Step(NamedTuple):
    """One augmentation with its arguments; `given` names what it is handed before these."""

    function: Callable
    given: tuple[str, ...]
    arguments: tuple

    def __call__(self, rng: Rng, **given: Any) -> Any:
        return self.function(rng, *(given[name] for name in self.given), *self.arguments)

    @property
    def takes(self) -> str:
        """What it changes, bends or puts together; empty for a map."""
        return self.given[0] if self.given else ""

    @property
    def moves(self) -> bool:
        return not self.given


def parse(texts: Sequence[str], among: dict[str, Any] | None = None) -> list[Step]:
    """The steps that the config names; UserError for an unknown one or wrong arguments.

    among: the names of the module that has the augmentations, this one by default.
    """
    ours: dict[str, Callable] = {
        name: function
        for name, function in (among or globals()).items()
        if inspect.isfunction(function)
        and next(iter(inspect.signature(function).parameters), "") == "rng"
    }
    known = plugins.with_own("augmentations", ours)
    steps = [_step(text, known) for text in texts]
    for text, step in zip(texts, steps):
        if step.takes and (step.takes == "signal") != (among is not None):
            raise UserError(
                f"data.augment: {text!r} changes a {step.takes}, and not what model.dim says these are"
            )
    return steps


def _step(text: str, known: dict[str, Callable]) -> Step:
    match = re.fullmatch(r"\s*(\w+)\s*(?:\((.*)\))?\s*", text)
    name = match.group(1) if match else text
    if name not in known:
        raise plugins.missing("data.augment", name, known)
    wanted = list(inspect.signature(known[name]).parameters.values())[1:]
    given = tuple(parameter.name for parameter in wanted if parameter.name in _GIVEN)
    wanted, inside = wanted[len(given) :], match.group(2) if match else None
    if known[name] is albumentations:
        pipeline = albumentations_pipeline.read((inside or "").strip().strip("'\""))
        return Step(known[name], given, (pipeline,))
    arguments = _arguments(text, inside)
    least = sum(p.default is p.empty for p in wanted)
    if not least <= len(arguments) <= len(wanted) or not all(a >= 0 for a in arguments):
        like = ", ".join(p.name for p in wanted)
        raise UserError(f"data.augment: {text!r} should be {name}({like}), with numbers from 0 up")
    if name in ("scale", "stretch") and not 0 < arguments[0] <= arguments[1]:
        raise UserError(f"data.augment: {text!r}: the factors must be positive, the lower one first")
    return Step(known[name], given, arguments)


def _arguments(text: str, inside: str | None) -> tuple:
    try:
        arguments = ast.literal_eval(f"({inside},)") if inside and inside.strip() else ()
        return tuple(float(a) for a in arguments)
    except (SyntaxError, ValueError, TypeError):
        raise UserError(f"data.augment: {text!r}: the arguments must be numbers") from None


def augment(
    sample: Sample, window: Window, steps: Sequence[Step], rng: Rng, other: Callable[[], Sample]
) -> Sample:
    """A random crop of the sample after all steps, image and mask warped once.

    Beyond the image's border the image is mirrored and the mask is `ignore`. other: draws another
    sample, for the steps that put several into one; it must draw from `rng` too.
    """

    def others(size: Sequence[int]) -> Sample:
        return _cropped(other(), window._replace(size=size), steps, rng)

    found = _cropped(sample, window, steps, rng)
    for step in steps:
        if step.takes == "image":
            found = found._replace(image=step(rng, image=found.image))
        elif step.takes in ("sample", "others"):
            found = step(rng, sample=found, others=others, ignore=window.ignore)
    return found


def _cropped(sample: Sample, window: Window, steps: Sequence[Step], rng: Rng) -> Sample:
    """A random crop after those steps that move pixels."""
    linear = np.eye(3)
    for step in steps:
        if step.takes == "whole":
            sample = step(rng, whole=sample, ignore=window.ignore)
        elif step.moves:
            linear = step(rng) @ linear
    matrix = placed(linear, sample.mask, window, rng)
    bends = [step(rng, crop=window.size) for step in steps if step.takes == "crop"]
    if bends:
        return bent(sample, matrix, sum(bends), window.ignore)
    return warp(sample, matrix, window.size, window.ignore)
