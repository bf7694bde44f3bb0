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


# ---- the pipeline


class Step(NamedTuple):
    """One augmentation with its arguments."""

    function: Callable
    arguments: tuple
    moves: bool


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
    moves = not (wanted and wanted[0].name in ("image", "signal"))
    wanted = wanted if moves else wanted[1:]
    arguments = _arguments(text, match.group(2) if match else None)
    least = sum(p.default is p.empty for p in wanted)
    if not least <= len(arguments) <= len(wanted) or not all(a >= 0 for a in arguments):
        like = ", ".join(p.name for p in wanted)
        raise UserError(f"data.augment: {text!r} should be {name}({like}), with numbers from 0 up")
    if name in ("scale", "stretch") and not 0 < arguments[0] <= arguments[1]:
        raise UserError(f"data.augment: {text!r}: the factors must be positive, the lower one first")
    return Step(known[name], arguments, moves)


def _arguments(text: str, inside: str | None) -> tuple:
    try:
        arguments = ast.literal_eval(f"({inside},)") if inside and inside.strip() else ()
        return tuple(float(a) for a in arguments)
    except (SyntaxError, ValueError, TypeError):
        raise UserError(f"data.augment: {text!r}: the arguments must be numbers") from None


def augment(
    sample: Sample, crop: tuple[int, int], steps: Sequence[Step], rng: Rng, ignore: int
) -> Sample:
    """A random crop (height, width) of the sample after all steps, image and mask warped once.

    Beyond the image's border the image is mirrored and the mask is `ignore`.
    """
    linear = np.eye(3)
    for step in steps:
        if step.moves:
            linear = step.function(rng, *step.arguments) @ linear
    image, mask = _warp(sample, _place(linear, sample.mask.shape, crop, rng), crop, ignore)
    for step in steps:
        if not step.moves:
            image = step.function(rng, image, *step.arguments)
    return Sample(image, mask)


def _place(linear: np.ndarray, size: Sequence[int], crop: tuple[int, int], rng: Rng) -> np.ndarray:
    """The map from source to crop: the linear part about the centre, then a random shift."""
    source = np.array([size[1], size[0]], float)
    target = np.array([crop[1], crop[0]], float)
    extent = np.abs(linear[:2, :2]) @ source
    slack = np.abs(extent - target) / 2
    centre = (target - 1) / 2 + rng.uniform(-slack, slack)
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
