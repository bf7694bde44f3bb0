"""Augmentation of signals: stretches of time composed into one resampling, then changes of value.

As in augment.py, an augmentation is a function here: one that takes a signal changes its values;
one that doesn't returns a factor of time. Values are in the record's units, which are standard
deviations where data.standardise is 'record'.
"""

from __future__ import annotations

from typing import Sequence

import numpy as np

from segtrain.data import augment as images
from segtrain.data.augment import Step
from segtrain.data.crop import Rng
from segtrain.data.dataset import Sample

# ---- time: factors about the record's middle


def stretch(rng: Rng, low: float, high: float) -> float:
    """Slow down by a factor between `low` and `high`, uniform in its logarithm."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def flip(rng: Rng, probability: float = 0.5) -> float:
    """Turn time round."""
    return -1.0 if rng.random() < probability else 1.0


# ---- values: signals (L, C) float32


def scale(rng: Rng, signal: np.ndarray, low: float, high: float) -> np.ndarray:
    """Multiply by a factor between `low` and `high`, uniform in its logarithm."""
    return signal * np.float32(np.exp(rng.uniform(np.log(low), np.log(high))))


def invert(rng: Rng, signal: np.ndarray, probability: float = 0.5) -> np.ndarray:
    """Change the sign."""
    return -signal if rng.random() < probability else signal


def noise(rng: Rng, signal: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian noise of up to `sigma`."""
    return signal + rng.standard_normal(signal.shape, np.float32) * np.float32(rng.uniform(0, sigma))


def wander(rng: Rng, signal: np.ndarray, height: float, period: float) -> np.ndarray:
    """A baseline that sways by up to `height`, in `period` to 4 `period` samples."""
    turns = 2 * np.pi * np.arange(len(signal)) / (max(period, 1) * 4 ** rng.uniform(0, 1))
    sway = rng.uniform(0, height) * np.sin(turns + rng.uniform(0, 2 * np.pi))
    return signal + sway[:, None].astype(np.float32)


# ---- the pipeline


def parse(texts: Sequence[str]) -> list[Step]:
    """The steps that the config names; UserError for an unknown one or wrong arguments."""
    return images.parse(texts, globals())


def augment(sample: Sample, crop: Sequence[int], steps: Sequence[Step], rng: Rng, ignore: int) -> Sample:
    """A random crop of the record after all steps, (crop, C) and (crop,), resampled once.

    Beyond the record's ends the signal is mirrored and the mask is `ignore`.
    """
    factor = 1.0
    for step in steps:
        if step.moves:
            factor *= step(rng)
    signal, mask = _resample(sample, factor, crop[0], rng, ignore)
    for step in steps:
        if not step.moves:
            signal = step(rng, signal=signal)
    return Sample(signal.astype(np.float32, copy=False), mask)


def _resample(sample: Sample, factor: float, crop: int, rng: Rng, ignore: int) -> Sample:
    """`crop` samples at steps of 1 / factor through the record, linear; labels of the nearest."""
    last, room = len(sample.mask) - 1, (crop - 1) / abs(factor)
    slack = abs(last - room) / 2
    centre = last / 2 + rng.uniform(-slack, slack)
    times = centre + (np.arange(crop) - (crop - 1) / 2) / factor
    if abs(factor) == 1:
        times = np.rint(times[0]) + np.arange(crop) * factor
    nearest = np.rint(times).astype(int)
    inside = (nearest >= 0) & (nearest <= last)
    mask = np.where(inside, sample.mask[np.clip(nearest, 0, last)], ignore).astype(np.uint8)
    times = last - np.abs(last - np.mod(times, max(1, 2 * last)))  # mirrored at both ends
    known = np.arange(last + 1)
    channels = [np.interp(times, known, channel) for channel in sample.image.T]
    return Sample(np.stack(channels, axis=1), mask)
