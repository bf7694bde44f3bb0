"""Learning rates over the run: MXNet's schedulers, chosen by name, each with warm-up."""

from __future__ import annotations

from mxnet import lr_scheduler

from segtrain.config import Train


def scheduler(train: Train, steps_per_epoch: int) -> lr_scheduler.LRScheduler:
    """The learning rate as a function of the number of updates.

    poly: (1 - t) ** power to 0; cosine: half a period to 0; step: a tenth at each milestone.
    """
    total = train.epochs * steps_per_epoch
    warmup = min(round(train.warmup * steps_per_epoch), total - 1)
    shared = {"base_lr": train.lr, "warmup_steps": warmup, "warmup_begin_lr": train.lr / 100}
    if train.schedule == "step":
        steps = sorted({max(1, round(m * total)) for m in train.milestones})
        return lr_scheduler.MultiFactorScheduler(steps, factor=0.1, **shared)
    if train.schedule == "cosine":
        return lr_scheduler.CosineScheduler(total, **shared)
    return lr_scheduler.PolyScheduler(total, pwr=train.power, **shared)
