"""Weights averaged over a run's checkpoints (stochastic weight averaging, Izmailov et al. 2018)."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, Dict, NamedTuple, Sequence

import mxnet as mx
import numpy as np
from mxnet import autograd

from segtrain import models
from segtrain import run as runs
from segtrain.bar import Bar
from segtrain.config import Config
from segtrain.data.dataset import open_split
from segtrain.data.loader import open_loader
from segtrain.errors import UserError
from segtrain.evaluation.compare import compare
from segtrain.evaluation.evaluate import evaluate, policy_of
from segtrain.evaluation.scored import scored
from segtrain.machines import devices
from segtrain.prediction.infer import Predictor
from segtrain.run import Arrays, Run, write
from segtrain.training.train import workers_for

PROBE = 1e6  # a running statistic that no batch has


class Checkpoint(NamedTuple):
    """A checkpoint's folder, and what its state.json says."""

    name: str
    state: Dict[str, Any]

    @property
    def age(self) -> tuple[int, int]:
        """Epochs and steps trained."""
        return self.state["epoch"], self.state["batch"]


def average(path: Path, out: Path, last: int = 5, device: str = "auto") -> dict[str, Any]:
    """Write the mean of the `last` checkpoints of the run `path` as the new run `out`, both scored.

    Batch norm's statistics are computed anew over the training split, since those of an average are
    no average of statistics. Keys of the result: averaged[{name, epoch, batch}], miou{best, average},
    comparison: the best checkpoint (A) against the average (B) on the validation split. UserError
    where there are no two checkpoints that differ, and where `out` is taken.
    """
    if out.exists():
        raise UserError(f"{out} exists: give another --out")
    run = Run.open(path)
    config, context = run.located(), devices.contexts(device)[0]
    chosen = choose(run, last)
    state = chosen[-1].state
    net = models.network(config.model, len(state["classes"]), config.data.mean, config.data.std)
    models.initialize(net, config.model, [context], seed=0)
    models.freeze_batch_norm(net, config.train.freeze_batch_norm)
    runs.put(net, mean([run.read(one.name, ("model",))[0]["model"] for one in chosen]))
    net.hybridize(static_alloc=True, static_shape=True)
    renew_statistics(net, config, context)
    val = open_split(config.data, "val", state["classes"])
    result = evaluate(
        Predictor(net.inference(), context, policy_of(config), net.side, net.stride),
        val,
        tolerance_ms=config.eval.tolerance_ms,
    )
    names = [{"name": one.name, "epoch": one.age[0], "batch": one.age[1]} for one in chosen]
    _write(run, out, net, {**_new(state, result["miou"]), "averaged": names})
    before = scored(path, device=device)
    return {
        "averaged": names,
        "miou": {"best": before["miou"], "average": result["miou"]},
        "comparison": compare(before, result),
    }


def choose(run: Run, last: int) -> list[Checkpoint]:
    """The `last` checkpoints whose weights differ, oldest first; UserError for fewer than two."""
    distinct: dict[str, Checkpoint] = {}
    for name, state in run.checkpoints().items():
        distinct.setdefault(state["sha256"]["model.params"], Checkpoint(name, state))
    found = sorted(distinct.values(), key=lambda one: one.age)
    if len(found) < 2:
        raise UserError(f"{run.path} has one checkpoint, and an average needs two: set checkpoint.keep")
    return found[-last:]


def mean(several: Sequence[Arrays]) -> Arrays:
    """The mean of each array, summed in double precision."""
    return {
        name: mx.nd.array(np.mean([one[name].asnumpy().astype(float) for one in several], axis=0))
        for name in several[0]
    }


def renew_statistics(net: models.Network, config: Config, context: mx.Context) -> None:
    """Set batch norm's running statistics to their mean over an epoch's training batches.

    MXNet moves a statistic s to m s + (1 - m) b with a batch's own b, in the backward pass. From 0
    that leaves (1 - m) b; the first batch, gone through from another start too, tells m.
    """
    kept = {
        name: parameter
        for name, parameter in net._collect_params_with_prefix().items()
        if name.endswith(("running_mean", "running_var"))
    }
    if not kept:
        return
    before = {name: parameter.data(context).asnumpy() for name, parameter in kept.items()}
    sums = {name: np.zeros_like(values, float) for name, values in before.items()}
    momentum: dict[str, float] = {}
    images = 0
    mx.random.seed(config.seed)
    dataset, channels = open_split(config.data, "train"), config.model.in_channels
    workers = workers_for(config, [context])
    with open_loader(
        dataset, config.data, channels, int(config.train.batch), config.seed, workers
    ) as loader:
        batches = Bar(loader.epoch(0), desc="batch norm", total=len(loader), unit="batch", leave=False)
        for batch in batches:
            x = mx.nd.array(batch.images, ctx=context, dtype=batch.images.dtype)
            moved = _moved(net, kept, x, 0)
            if not momentum:
                probed = _moved(net, kept, x, PROBE)
                momentum = {n: float(np.mean(probed[n] - moved[n])) / PROBE for n in kept}
            for name in kept:
                sums[name] = sums[name] + len(x) * moved[name].astype(float)
            images += len(x)
    for name, parameter in kept.items():
        share = 1 - momentum[name]
        fixed = share < 1e-5  # use_global_stats: no batch moves it
        parameter.set_data(mx.nd.array(before[name] if fixed else sums[name] / images / share))


def _moved(
    net: models.Network, kept: Dict[str, Any], x: mx.nd.NDArray, start: float
) -> dict[str, np.ndarray]:
    """Where a batch moves the statistics from `start`."""
    for parameter in kept.values():
        for array in parameter.list_data():
            array[:] = start
    mx.nd.waitall()
    with autograd.record():
        heads = net.heads(x)
    autograd.backward(heads)
    mx.nd.waitall()  # the engine doesn't know that the backward pass writes them
    return {name: parameter.list_data()[0].asnumpy() for name, parameter in kept.items()}


def _new(state: Dict[str, Any], miou: float | None) -> Dict[str, Any]:
    """The state of a checkpoint that was trained no further than another one."""
    kept = {key: state[key] for key in ("epoch", "batch", "classes", "ignore", "history")}
    return {**kept, "best": {"miou": miou or 0.0, "epoch": state["epoch"]}}


def _write(run: Run, out: Path, net: models.Network, state: Dict[str, Any]) -> None:
    """The new run's folder, whole or not at all."""
    aside = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        new = Run.create(aside)
        write(aside / "config.yaml", (run.path / "config.yaml").read_bytes())
        averaged = {"run": str(run.path), "checkpoints": state["averaged"]}
        environment = {**run.environment(), "averaged": averaged}
        write(aside / "environment.json", json.dumps(environment, indent=1))
        parameters = net._collect_params_with_prefix().items()
        arrays = {name: p.list_data()[0].as_in_context(mx.cpu()) for name, p in parameters}
        new.save("best", {"model": arrays}, state)
        os.rename(aside, out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
