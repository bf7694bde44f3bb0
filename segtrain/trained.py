"""A trained network, ready to run: from a run's best checkpoint, or from an exported bundle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Callable, List, NamedTuple, Optional, Sequence

import mxnet as mx
import numpy as np

from segtrain import models, run
from segtrain.config import Config
from segtrain.data.dataset import palette
from segtrain.data.signals import form_of
from segtrain.errors import UserError, one_line
from segtrain.machines import devices
from segtrain.prediction import infer
from segtrain.prediction.infer import Kind, Policy, Predictor
from segtrain.prediction.records import Form


class Trained(NamedTuple):
    """A network with what is needed to use it."""

    net: Any
    stride: int
    side: Optional[int]
    context: mx.Context
    classes: List[str]
    ignore: int
    palette: np.ndarray
    kind: Kind
    config: Optional[Config] = None
    score: Optional[dict] = None
    form: Optional[Form] = None  # of the records that it takes, where they aren't images

    def predictor(self, policy: Policy = Policy()) -> Predictor:
        """What turns images or signals into masks, by `policy`; UserError for images' policies."""
        if self.form and not policy.plain:
            raise UserError("--scales, --flip and --window are for images; signals go through whole")
        return Predictor(self.forward(), self.context, policy, self.side, self.stride)

    def forward(self) -> Callable:
        """Scores (N, classes, ...) of raw values whose sides are multiples of the stride."""
        return self.net.inference() if isinstance(self.net, models.Network) else self.net


def open_trained(
    path: Path, device: str = "auto", form: Optional[str] = None, runtime: Optional[str] = None
) -> Trained:
    """The network of a run folder or a bundle, on the first of the devices named.

    form, runtime: one of a bundle's formats and what runs it, see runtimes.py. UserError where
    `path` is neither, holds no checkpoint yet, or isn't what was exported.
    """
    context = devices.contexts(device)[0]
    if (path / "model.json").is_file():
        return _bundle(path, context, form, runtime)
    if form or runtime:
        raise UserError(f"--format and --runtime are for bundles, and {path} is none: export the run")
    return _run(path, context)


def open_ensemble(
    paths: Sequence[Path],
    device: str = "auto",
    form: Optional[str] = None,
    runtime: Optional[str] = None,
) -> Trained:
    """Run folders or bundles as one network, whose probabilities are the mean of theirs.

    All else is of the first one. UserError where their classes or what they take differ.
    """
    first, *others = [open_trained(path, device, form, runtime) for path in paths]
    if not others:
        return first
    for path, other in zip(paths[1:], others):
        _check_alike(paths[0], first, path, other)
    sides = {one.side for one in (first, *others) if one.side}
    if len(sides) > 1:
        raise UserError(f"--with: these take sides of {' and '.join(map(str, sorted(sides)))} alone")
    net = Mean([one.forward() for one in (first, *others)])
    stride = int(np.lcm.reduce([one.stride for one in (first, *others)]))
    return first._replace(net=net, side=max(sides, default=None), stride=stride, score=None)


def _check_alike(path: Path, first: Trained, other_path: Path, other: Trained) -> None:
    """UserError where two networks can't be asked about the same images."""
    for what, a, b in (
        ("has the classes", ", ".join(first.classes), ", ".join(other.classes)),
        ("takes images that are", first.kind, other.kind),
        ("takes records of the form", first.form, other.form),
    ):
        if a != b:
            raise UserError(f"--with {other_path} {what} {b}, and {path} {a}: they can't be averaged")


class Mean:
    """Networks as one: the scores (N, classes, ...) are the logarithm of their mean probability."""

    def __init__(self, nets: Sequence[Any]):
        self._nets = nets

    def __call__(self, x: mx.nd.NDArray) -> mx.nd.NDArray:
        total = mx.nd.add_n(*[net(x).softmax(axis=1) for net in self._nets])
        return mx.nd.log(mx.nd.maximum(total / len(self._nets), np.finfo(np.float32).tiny))


def _run(path: Path, context: mx.Context) -> Trained:
    folder = run.Run.open(path)
    config = folder.located()
    arrays, state = folder.load("best", ("model",))
    net = models.network(config.model, len(state["classes"]), config.data.mean, config.data.std)
    models.initialize(net, config.model, [context], seed=0)
    run.put(net, arrays["model"])
    net.hybridize(static_alloc=True, static_shape=True)
    return Trained(
        net,
        net.stride,
        net.side,
        context,
        state["classes"],
        state["ignore"],
        palette(),
        Kind(config.model.in_channels, config.data.options.get("depth", Kind().depth)),
        config,
        state["best"],
        form_of(config.data) if config.model.dim == 1 else None,
    )


def _bundle(path: Path, context: mx.Context, name: Optional[str], runtime: Optional[str]) -> Trained:
    try:
        net, about = infer.load(path, context, name, runtime)
        colours = np.array(about["palette"], np.uint8)
        classes, ignore = about["classes"], about["ignore"]
        stride, side = about["stride"], about["side"]
        form = Form(**about["form"]) if "form" in about else None
        about_input = about["input"]
        kind = Kind() if form else Kind(about_input["channels"], about_input["depth"])
    except infer.InputError as error:
        raise UserError(str(error)) from None
    except (OSError, KeyError, TypeError, ValueError, json.JSONDecodeError, mx.MXNetError) as error:
        text = one_line(error)
        raise UserError(f"{path} is a damaged bundle ({text}): export it again") from None
    return Trained(net, stride, side, context, classes, ignore, colours, kind, form=form)
