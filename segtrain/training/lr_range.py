"""The learning-rate range test (Smith 2017, section 3.3): which learning rate to begin with."""

from __future__ import annotations

from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np
from scipy.ndimage import gaussian_filter1d

from segtrain import models
from segtrain.bar import Bar
from segtrain.config import Config
from segtrain.data.loader import Batch, Loader
from segtrain.errors import SegtrainError, UserError
from segtrain.machines.devices import contexts as find_devices
from segtrain.training.learner import Learner, NotANumber
from segtrain.training.schedule import Shaped
from segtrain.training.train import prepare

RULE = (
    "the learning rate at which the loss falls fastest per factor of learning rate, before its lowest "
    "point; the loss smoothed by a Gaussian whose deviation is 4% of the steps"
)
DIVERGED = 4  # times the lowest loss so far: the test ends there
_NOISE = 2  # standard deviations of the losses about the curve: a smaller fall may be chance
_RECENT = 0.9  # of the running average that is watched for that


def range_test(
    config: Config, device: str = "auto", low: float = 1e-6, high: float = 10, steps: int = 100
) -> Dict[str, Any]:
    """Train for up to `steps` while the learning rate rises from `low` to `high` by a constant factor.

    As the config says but for the schedule, with the encoder unfrozen, and without a cache; writes
    nothing. Keys: suggestion (None where the loss never fell), rule, lowest (the learning
    rate of the lowest loss), diverged (that of the end, None where it went on to `high`), curve
    [{lr, loss, smoothed}].
    """
    if not 0 < low < high or steps < 10:
        raise UserError(f"a range test needs 0 < low < high and 10 steps: {low:g} to {high:g}, {steps}")
    data = config.data.model_copy(update={"cache": "none"})
    with prepare(config.model_copy(update={"data": data}), find_devices(device)) as made:
        learner = made.learner
        if config.model.weights:
            models.load_weights(learner.net, config.model)
        if config.model.encoder_params:
            learner.load_encoder()
        learner.begin(config.train.freeze_encoder_epochs)
        rising = Shaped(steps, lambda t: (high / low) ** t, base_lr=low)
        learner.trainer.optimizer.lr_scheduler = rising
        lrs, found, diverged = _train(learner, _endless(made.loader), steps)
    if not found:
        raise SegtrainError(f"the loss is no number from the first step on, at {low:g}: begin lower")
    return result(lrs, found, diverged, steps)


def result(
    lrs: Sequence[float], found: Sequence[float], diverged: Optional[float], steps: int
) -> Dict[str, Any]:
    """What range_test returns, of the losses `found` at the rising learning rates."""
    smoothed = gaussian_filter1d(np.asarray(found, float), max(1.0, 0.04 * steps), mode="nearest")
    lowest = int(smoothed.argmin())
    fall = smoothed[: lowest + 1].max() - smoothed[lowest]
    suggestion = None
    if fall > _NOISE * np.std((found - smoothed)[: lowest + 1]):
        steepest = np.gradient(smoothed)[: lowest + 1].argmin()
        suggestion = float(f"{lrs[steepest]:.2g}")
    curve = zip(map(float, lrs), map(float, found), smoothed.tolist())
    return {
        "suggestion": suggestion,
        "rule": RULE,
        "lowest": float(lrs[lowest]),
        "diverged": diverged,
        "curve": [{"lr": lr, "loss": loss, "smoothed": smooth} for lr, loss, smooth in curve],
    }


def plot(test: Dict[str, Any]) -> bytes:
    """A PNG of the loss over the learning rate, with the suggestion marked."""
    from io import BytesIO

    from matplotlib.figure import Figure

    columns = {key: [point[key] for point in test["curve"]] for key in ("lr", "loss", "smoothed")}
    figure = Figure(figsize=(7, 4.5), dpi=110, layout="constrained")
    axes: Any = figure.subplots()
    axes.plot(columns["lr"], columns["loss"], color="0.75", label="loss of the batch")
    axes.plot(columns["lr"], columns["smoothed"], color="tab:blue", label="smoothed")
    if test["suggestion"]:
        label = f"suggested: {test['suggestion']:g}"
        axes.axvline(test["suggestion"], color="tab:red", linestyle="--", label=label)
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss")
    axes.set_ylim(top=1.1 * max(columns["smoothed"]))
    axes.legend()
    picture = BytesIO()
    figure.savefig(picture, format="png")
    return picture.getvalue()


def _train(
    learner: Learner, batches: Iterator[Batch], steps: int
) -> Tuple[List[float], List[float], Optional[float]]:
    """The learning rates, the losses, and the learning rate at which these diverged, if they did.

    Reads each loss as it comes, since the test must end when the loss runs away.
    """
    lrs: List[float] = []
    found: List[float] = []
    average, best = 0.0, np.inf
    for number in Bar(range(steps), desc="lr", unit="step", leave=False):
        learner.step(next(batches), number)
        try:
            loss = learner.losses()[0].loss
        except NotANumber:
            return lrs, found, learner.lr
        lrs.append(learner.lr)
        found.append(loss)
        average = _RECENT * average + (1 - _RECENT) * loss
        recent = average / (1 - _RECENT ** (number + 1))
        best = min(best, recent)
        if recent > DIVERGED * best:
            return lrs, found, learner.lr
    return lrs, found, None


def _endless(loader: Loader) -> Iterator[Batch]:
    epoch = 0
    while True:
        yield from loader.epoch(epoch)
        epoch += 1
