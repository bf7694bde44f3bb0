"""Learning rates over the run, chosen by name, each with warm-up."""

from __future__ import annotations

from math import cos, pi
from typing import Callable

from mxnet import lr_scheduler

from segtrain.config import Train


class Shaped(lr_scheduler.LRScheduler):
    """base_lr * shape(t), where t goes from 0 after the warm-up to 1 at the update `total`.

    MXNet's schedulers by factors remember where they were; this one may be asked for an earlier
    update, too, as after a return to a checkpoint.
    """

    def __init__(self, total: int, shape: Callable[[float], float], **warmup: float):
        super().__init__(**warmup)
        self._total, self._shape = total, shape

    def __call__(self, num_update: int) -> float:
        if num_update < self.warmup_steps:
            return self.get_warmup_lr(num_update)
        done = (num_update - self.warmup_steps) / (self._total - self.warmup_steps)
        return self.base_lr * self._shape(min(1.0, done))


def scheduler(train: Train, steps_per_epoch: int) -> lr_scheduler.LRScheduler:
    """The learning rate as a function of the number of updates, a pure one.

    With t from 0 at the end of the warm-up to 1 at the end of the run, and f = train.final_lr:
    poly: f + (1 - f) * (1 - t) ** power; cosine: half a period from 1 to f; exponential: f ** t;
    constant: 1; step: a tenth at each milestone, which are shares of the whole run. onecycle (Smith
    & Topin 2018): half a cosine up from 1/25 over the warm-up, or over 30% of the run if there is
    none, half a cosine down to f over the rest; the momentum stays as it is. plateau: 1, which the
    session lowers as the scores tell.
    """
    total = train.epochs * steps_per_epoch
    warmup = min(round(train.warmup * steps_per_epoch), total - 1)
    shared = {"base_lr": train.lr, "warmup_steps": warmup, "warmup_begin_lr": train.lr / 100}
    low = train.final_lr
    if train.schedule == "poly":
        return lr_scheduler.PolyScheduler(total, pwr=train.power, final_lr=low * train.lr, **shared)
    if train.schedule == "cosine":
        return lr_scheduler.CosineScheduler(total, final_lr=low * train.lr, **shared)
    if train.schedule == "onecycle":
        return Shaped(total, _onecycle(warmup / total or 0.3, low), base_lr=train.lr)
    shapes: dict[str, Callable[[float], float]] = {
        "constant": lambda t: 1.0,
        "plateau": lambda t: 1.0,
        "exponential": lambda t: low**t,
        "step": _steps(train.milestones, total, warmup),
    }
    return Shaped(total, shapes[train.schedule], **shared)


def _steps(milestones: list[float], total: int, warmup: int) -> Callable[[float], float]:
    ends = [max(1, round(share * total)) for share in milestones]

    def shape(t: float) -> float:
        update = round(warmup + t * (total - warmup))
        return 0.1 ** sum(update > end for end in ends)

    return shape


def _onecycle(rise: float, low: float) -> Callable[[float], float]:
    def shape(t: float) -> float:
        if t < rise:
            return _between(0.04, 1.0, t / rise)
        return _between(1.0, low, (t - rise) / (1 - rise))

    return shape


def _between(start: float, end: float, t: float) -> float:
    """Half a period of a cosine from `start` at t = 0 to `end` at t = 1."""
    return end + (start - end) * (1 + cos(pi * t)) / 2
