"""Model, crop, batch and the rest, chosen for a dataset and for this machine."""

from __future__ import annotations

from typing import Any, Dict, List, NamedTuple, Tuple

import mxnet as mx
import numpy as np

from segtrain.config import SIGNAL_AUGMENT, Config
from segtrain.data.survey import Survey
from segtrain.graph import graph
from segtrain.machines import devices, memory
from segtrain.models import IMAGENET_MEAN, IMAGENET_STD

STEPS = {"cpu": 2500, "gpu": 8000}
LARGEST = {"cpu": 384, "gpu": 512}
LOOKS = 20  # at the score: with a fifth of the images for validation, some 2 % of the time
STEPS_1D, LONGEST = 600, 1024  # of signals, whose networks are small


class Choice(NamedTuple):
    """A value for the config, and why."""

    key: str
    value: Any
    why: str = ""


def choose(surveys: Dict[str, Survey], known: Config) -> List[Choice]:
    """The choices for the splits 'train' and 'val'; `known` has the data section so far."""
    train = surveys["train"]
    device = devices.contexts("auto")[0].device_type
    sizes = np.array([look.size for look in train.looks])
    middle = np.median(sizes, axis=0).astype(int).tolist()
    fold = 2 if device == "cpu" and min(middle) >= 256 else 1
    streams, crop = _crop(middle, fold, device)
    widths = [(16 if device == "cpu" else 32) * 2**i for i in range(streams)]
    channels = len(train.looks[0].mean)
    classes = len(train.dataset.classes)
    model = {"widths": widths, "fold": fold, "in_channels": channels, "classes": classes}
    batch, told = _batch(known, model, crop, len(train.looks), device)
    epochs = int(np.clip(round(STEPS[device] * batch / len(train.looks)), 10, 500))
    return [
        Choice("model.name", "unet", "see the README's table for others"),
        Choice("model.widths", widths, f"{streams} streams fit the crop; as wide as a {device} bears"),
        *([Choice("model.in_channels", channels, "as the images have")] if channels != 3 else []),
        *([Choice("model.fold", 2, "no GPU: half the resolution inside takes a fourth")] * (fold > 1)),
        Choice("data.crop", crop, f"the median image is {middle[0]}x{middle[1]}"),
        Choice("data.augment", _augment(train), "take out what your images don't bear"),
        *_statistics(train),
        Choice("train.epochs", epochs, f"about {STEPS[device]} steps, for a {device}"),
        Choice("train.batch", batch, told),
        Choice("train.optimizer", "adamw", "sure to learn something; sgd may end higher"),
        Choice("train.lr", 0.002),
        Choice("train.weight_decay", 0.02),
        Choice("train.warmup", 1),
        Choice("train.loss", {"ce": 1, "dice": 1}, "dice looks after the rare classes"),
        _weights(train),
        Choice("eval.every", max(1, epochs // LOOKS), f"about {LOOKS} evaluations in the run"),
    ]


def choose_signals(surveys: Dict[str, Survey], known: Config) -> List[Choice]:
    """As `choose`, for records of signals: a 1-D U-Net with residual skips."""
    train = surveys["train"]
    lengths = sorted(look.size[0] for look in train.looks)
    middle, channels = lengths[len(lengths) // 2], len(train.looks[0].mean)
    streams = 5 if middle >= 256 else 4 if middle >= 64 else 3
    stride = 2 ** (streams - 1)
    crop = [max(stride, min(middle, LONGEST) // stride * stride)]
    widths = [16, 32, 64, 128, 128][:streams]
    batch = 16
    while batch > 1 and 2 * batch > len(train.looks):
        batch //= 2
    epochs = int(np.clip(round(STEPS_1D * batch / len(train.looks)), 10, 500))
    return [
        Choice("model.name", "unet", "see the README's table for others"),
        Choice("model.dim", 1, "signals"),
        Choice("model.in_channels", channels, "as the records have"),
        Choice("model.widths", widths, f"{streams} streams fit the crop"),
        Choice("model.skip", "residual"),
        Choice("data.crop", crop, f"records have {lengths[0]} to {lengths[-1]} samples, most {middle}"),
        Choice("data.augment", SIGNAL_AUGMENT, "take out what your signals don't bear"),
        Choice("train.epochs", epochs, f"about {STEPS_1D} steps"),
        Choice("train.batch", batch, f"of {len(train.looks)} records"),
        Choice("train.optimizer", "adamw"),
        Choice("train.lr", 0.003),
        Choice("train.weight_decay", 0.01),
        Choice("train.schedule", "cosine"),
        Choice("train.warmup", 1),
        Choice("train.loss", {"ce": 1, "dice": 1}, "dice looks after the rare classes"),
        _weights(train),
        Choice("eval.every", max(1, epochs // LOOKS), f"about {LOOKS} evaluations in the run"),
    ]


def _crop(middle: List[int], fold: int, device: str) -> Tuple[int, List[int]]:
    """The number of streams, and the crop: the image's size in multiples of the stride."""
    inside = min(min(side, LARGEST[device]) for side in middle) // fold
    streams = 5 if inside >= 128 else 4 if inside >= 48 else 3
    stride = fold * 2 ** (streams - 1)
    return streams, [max(stride, min(side, LARGEST[device]) // stride * stride) for side in middle]


def _batch(
    known: Config, model: Dict[str, Any], crop: List[int], images: int, device: str
) -> Tuple[int, str]:
    """As many crops as half of the free memory holds, and no more than suit the dataset."""
    data = {**known.data.model_dump(), "crop": crop}
    whole = Config.model_validate({"model": model, "data": data})
    layers = graph.describe(whole)["layers"]
    values = sum(int(np.prod(layer["output_shape"])) for layer in layers)
    each, free = 2 * 4 * values, _free_memory(device)
    batch = 8
    while batch > 1 and (batch * each > free / 2 or 2 * batch > images):
        batch //= 2
    return batch, f"about {each * batch / 2**20:,.0f} MiB of {free / 2**20:,.0f} MiB that are free"


def _free_memory(device: str) -> int:
    if device == "gpu":
        return int(mx.context.gpu_memory_info(0)[0])
    return memory.available()


def _augment(train: Survey) -> List[str]:
    colour = ["color(0.3)"] if train.dataset.dtype == "uint8" else []
    return ["scale(0.6, 1.4)", "flip", "rotate(10)", *colour]


def _statistics(train: Survey) -> List[Choice]:
    """The images' mean and standard deviation, where they aren't those of photographs."""
    mean = np.mean([look.mean for look in train.looks], axis=0)
    square = np.mean([look.square for look in train.looks], axis=0)
    std = np.sqrt(np.maximum(square - mean**2, 1e-6))
    natural = len(mean) == 3 and train.dataset.dtype == "uint8"
    if natural and len(train.looks) < 20:
        return []  # too few to know better than ImageNet's
    if natural and (np.abs(mean - IMAGENET_MEAN) < 0.5 * np.array(IMAGENET_STD)).all():
        return []
    rounded = [[float(f"{value:.4g}") for value in values] for values in (mean, std)]
    return [
        Choice("data.mean", rounded[0], "of the training images' raw values, per channel"),
        Choice("data.std", rounded[1]),
    ]


def _weights(train: Survey) -> Choice:
    """Class weights where one class is more than 200 times as frequent as another."""
    shares = train.pixels / max(1, train.pixels.sum())
    held = np.flatnonzero(shares)
    rare, often = held[shares[held].argmin()], held[shares[held].argmax()]
    told = " to ".join(f"{train.dataset.classes[i]} {100 * shares[i]:.2g} %" for i in (rare, often))
    told = f"shares of the pixels: {told}"
    return Choice("train.class_weights", "enet" if shares[often] > 200 * shares[rare] else "none", told)
