"""Augmentation: geometry composed into one warp of image and mask, then changes of colour.

An augmentation is a function here, and its arguments are what the config gives, as in
``scale(0.5, 2)``. One that takes an image changes its colours; one that doesn't returns a map.
"""

from __future__ import annotations

import ast
import inspect
import re
from typing import Any, Callable, NamedTuple, Sequence

import cv2
import numpy as np

from segtrain.data.dataset import Sample
from segtrain.errors import UserError, nearest

Rng = np.random.Generator

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
    return np.clip(image + grain, 0, 255).astype(np.uint8)


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


# ---- the pipeline

_GIVEN = ("image", "signal", "crop", "sample", "ignore")


class Step(NamedTuple):
    """One augmentation with its arguments; `takes` is what it changes, or empty for a map."""

    function: Callable
    arguments: tuple
    takes: str

    @property
    def moves(self) -> bool:
        return not self.takes


def parse(texts: Sequence[str], among: dict[str, Any] | None = None) -> list[Step]:
    """The steps that the config names; UserError for an unknown one or wrong arguments.

    among: the names of the module that has the augmentations, this one by default.
    """
    known: dict[str, Callable] = {
        name: function
        for name, function in (among or globals()).items()
        if inspect.isfunction(function)
        and next(iter(inspect.signature(function).parameters), "") == "rng"
    }
    return [_step(text, known) for text in texts]


def _step(text: str, known: dict[str, Callable]) -> Step:
    match = re.fullmatch(r"\s*(\w+)\s*(?:\((.*)\))?\s*", text)
    name = match.group(1) if match else text
    if name not in known:
        raise UserError(f"data.augment: no {text!r}; {nearest(name, known)}")
    wanted = list(inspect.signature(known[name]).parameters.values())[1:]
    takes = wanted[0].name if wanted and wanted[0].name in _GIVEN else ""
    wanted = [parameter for parameter in wanted if parameter.name not in _GIVEN]
    arguments = _arguments(text, match.group(2) if match else None)
    least = sum(p.default is p.empty for p in wanted)
    if not least <= len(arguments) <= len(wanted) or not all(a >= 0 for a in arguments):
        like = ", ".join(p.name for p in wanted)
        raise UserError(f"data.augment: {text!r} should be {name}({like}), with numbers from 0 up")
    if name in ("scale", "stretch") and not 0 < arguments[0] <= arguments[1]:
        raise UserError(f"data.augment: {text!r}: the factors must be positive, the lower one first")
    return Step(known[name], arguments, takes)


def _arguments(text: str, inside: str | None) -> tuple:
    try:
        arguments = ast.literal_eval(f"({inside},)") if inside and inside.strip() else ()
        return tuple(float(a) for a in arguments)
    except (SyntaxError, ValueError, TypeError):
        raise UserError(f"data.augment: {text!r}: the arguments must be numbers") from None


def augment(
    sample: Sample,
    crop: tuple[int, int],
    steps: Sequence[Step],
    rng: Rng,
    ignore: int,
    foreground: float = 0,
) -> Sample:
    """A random crop (height, width) of the sample after all steps, image and mask warped once.

    Beyond the image's border the image is mirrored and the mask is `ignore`. foreground: the chance
    that the crop is placed so that it holds a pixel of a class drawn from those present but the first.
    """
    linear = np.eye(3)
    for step in steps:
        if step.moves:
            linear = step.function(rng, *step.arguments) @ linear
    pixel = _foreground(sample.mask, rng, ignore) if foreground and rng.random() < foreground else None
    matrix = _place(linear, sample.mask.shape, crop, rng, pixel)
    bends = [step.function(rng, crop, *step.arguments) for step in steps if step.takes == "crop"]
    image, mask = (
        _bent(sample, matrix, sum(bends), ignore) if bends else _warp(sample, matrix, crop, ignore)
    )
    for step in steps:
        if step.takes == "image":
            image = step.function(rng, image, *step.arguments)
        elif step.takes == "sample":
            image, mask = step.function(rng, Sample(image, mask), ignore, *step.arguments)
    return Sample(image, mask)


def _foreground(mask: np.ndarray, rng: Rng, ignore: int) -> np.ndarray | None:
    """The place (x, y) of a pixel of one of the classes present, but 0; None where there is none."""
    classes = [c for c in np.flatnonzero(np.bincount(mask.ravel())) if c not in (0, ignore)]
    if not classes:
        return None
    places = np.flatnonzero(mask.ravel() == rng.choice(classes))
    return np.array(np.unravel_index(rng.choice(places), mask.shape)[::-1], float)


def _place(
    linear: np.ndarray,
    size: Sequence[int],
    crop: tuple[int, int],
    rng: Rng,
    pixel: np.ndarray | None = None,
) -> np.ndarray:
    """The map from source to crop: the linear part about the centre, then a random shift.

    pixel: (x, y) in the source that is to lie in the crop.
    """
    source = np.array([size[1], size[0]], float)
    target = np.array([crop[1], crop[0]], float)
    extent = np.abs(linear[:2, :2]) @ source
    slack = np.abs(extent - target) / 2
    if pixel is None:
        shift = rng.uniform(-slack, slack)
    else:
        wanted = rng.uniform(0, target - 1) - linear[:2, :2] @ (pixel - (source - 1) / 2)
        shift = np.clip(wanted - (target - 1) / 2, -slack, slack)
    centre = (target - 1) / 2 + shift
    matrix = linear.copy()
    matrix[:2, 2] = centre - linear[:2, :2] @ ((source - 1) / 2)
    if np.isin(np.abs(linear[:2, :2]), (0.0, 1.0)).all():
        matrix[:2, 2] = np.rint(matrix[:2, 2])
    return matrix


def _warp(sample: Sample, matrix: np.ndarray, crop: tuple[int, int], ignore: int) -> Sample:
    size = (crop[1], crop[0])
    image = cv2.warpAffine(
        sample.image, matrix[:2], size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
    )
    mask = cv2.warpAffine(
        sample.mask,
        matrix[:2],
        size,
        flags=cv2.INTER_NEAREST,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=ignore,
    )
    return Sample(image.reshape(*crop, -1), mask)


def _bent(sample: Sample, matrix: np.ndarray, bend: np.ndarray, ignore: int) -> Sample:
    """As `_warp`, each pixel of the crop looking `bend` away from where it would."""
    height, width = bend.shape[:2]
    places = np.dstack(np.meshgrid(np.arange(width), np.arange(height))) + bend
    back = np.linalg.inv(matrix)
    x, y = np.moveaxis(places @ back[:2, :2].T + back[:2, 2], -1, 0).astype(np.float32)
    image = cv2.remap(sample.image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    mask = cv2.remap(
        sample.mask, x, y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=ignore
    )
    return Sample(image.reshape(height, width, -1), mask)
