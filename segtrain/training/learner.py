"""Network, loss and optimizer on their devices: one step, and the state that a checkpoint keeps."""

from __future__ import annotations

import json
from contextlib import contextmanager
from functools import partial
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import mxnet as mx
import numpy as np
from mxnet import autograd, gluon

from segtrain import losses, models, run
from segtrain.config import Config
from segtrain.data.loader import Batch
from segtrain.errors import SegtrainError, UserError
from segtrain.layers.sync import Turns
from segtrain.machines.ranks import ALONE, Ranks
from segtrain.training.averaging import Average
from segtrain.training.feed import Feed, host
from segtrain.training.optimizers import trainer
from segtrain.training.recompute import Recomputed
from segtrain.training.scaling import LossScaler, all_finite


class Step(NamedTuple):
    """One step of training, told after its losses were read."""

    number: int
    indices: List[int]
    """The samples of its batch."""
    lr: float
    losses: Dict[str, float]
    """Each loss times its weight; 'aux' is the auxiliary heads'."""
    norm: Optional[float] = None
    """The gradient's L2 norm before it was clipped, where it is."""

    @property
    def loss(self) -> float:
        return sum(self.losses.values())


class NotANumber(SegtrainError):
    """The loss of `step` was NaN or infinite."""

    def __init__(self, step: Step):
        super().__init__(f"the loss of step {step.number + 1} is no number (lr {step.lr:.3g})")
        self.step = step


class _Pending(NamedTuple):
    """A step whose numbers are still on the devices."""

    number: int
    indices: List[int]
    lr: float
    terms: List[mx.nd.NDArray]
    norm: Optional[mx.nd.NDArray]

    def values(self) -> List[float]:
        """The terms of this rank's share of the loss; none where it had no sample."""
        arrays = [term.asnumpy() for term in self.terms]
        return np.sum(arrays, axis=0, dtype=float).tolist() if arrays else []

    def read(self, names: Sequence[str], values: Sequence[float]) -> Step:
        norm = None if self.norm is None else float(self.norm.asscalar())
        return Step(self.number, self.indices, self.lr, dict(zip([*names, "aux"], values)), norm)


class Learner:
    """Trains a network on batches split over devices, and over `train.accumulate` passes.

    The gradient is that of the whole batch's loss on any number of devices and passes, for batches
    that don't divide too, and for fewer samples than devices.
    """

    def __init__(
        self,
        config: Config,
        dataset: Any,
        weights: np.ndarray,
        contexts: list,
        steps: int,
        ranks: Ranks = ALONE,
    ):
        self.config, self.contexts, self.ranks = config, contexts, ranks
        train = config.train
        _check_devices(config, contexts)
        _check_ranks(config, ranks)
        self.net = models.network(
            config.model, len(dataset.classes), config.data.mean, config.data.std, len(contexts)
        )
        check_crop(self.net, config, getattr(dataset, "dim", 2))
        models.initialize(self.net, config.model, contexts, config.seed)
        models.freeze_batch_norm(self.net, train.freeze_batch_norm)
        self._scaler = LossScaler() if train.precision == "float16" else None
        if self._scaler:
            self.net.cast("float16")
        self._synchronised = config.model.norm == "sync" and len(contexts) > 1
        if not self._synchronised:
            self.net.hybridize(static_alloc=True, static_shape=True)
        shape = (1, config.model.in_channels, *config.data.crop)
        self._recomputed = Recomputed(self.net.heads, shape) if train.recompute else None
        self._heads = self._recomputed or self.net.heads
        self._loss = losses.Loss(train.loss, weights, dataset.ignore, config.model.dim)
        self._loss.initialize(ctx=contexts)
        held = not train.recompute  # whether the loss keeps its memory from step to step
        self._loss.hybridize(static_alloc=held, static_shape=held)
        self._parameters = self.net._collect_params_with_prefix()
        self._encoder = _encoder(self.net, config)
        # The trainer must not know of running statistics: its first step overwrites those of the
        # other devices with the first one's.
        self._trainable = [p for p in self._parameters.values() if p.grad_req != "null"]
        if train.accumulate > 1:
            for parameter in self._trainable:
                parameter.grad_req = "add"
        self.trainer = trainer(train, self._trainable, steps, ranks.store)
        self._average = Average(self._learned(), contexts[0], train.ema) if train.ema else None
        self._feed = Feed(host(contexts))
        self._pending: List[_Pending] = []
        self.lr_scale = 1.0

    def load_encoder(self) -> str:
        """Give the encoder the weights that the config asks for; says what was loaded."""
        loaded = models.load_encoder(self.net, self.config.model)
        if self._average:
            self._average.begin()
        return loaded

    def begin(self, epoch: int) -> None:
        """Set each parameter's share of the learning rate: zero in the epochs that freeze it."""
        train = self.config.train
        for parameter in self._trainable:
            parameter.lr_mult = self.lr_scale
        for parameter in self._encoder:
            parameter.lr_mult *= 0 if epoch < train.freeze_encoder_epochs else train.encoder_lr

    def step(self, batch: Batch, number: int) -> None:
        """Forward, backward, update, as the `number`-th step; never waits for a device.

        So the next batch is copied while this one computes: the session lets the devices finish once in
        `train.log_every` steps, where it reads `losses`. But in float16 each step waits to learn
        whether the gradient overflowed.
        """
        mx.random.seed(_seed(self.config.seed, number))
        truth, per_term = self._loss.prepare(batch.masks)
        factors = mx.nd.array(per_term)
        if self.ranks.size > 1:  # over the counts of all ranks
            factors = 1 / self.ranks.totals((1 / per_term).tolist())
        if self.config.train.accumulate > 1 or not len(batch.images):
            self._clear(self.contexts)
        parts = self._parts([batch.images, *truth])
        terms = [term for images, *truth in parts for term in self._pass(images, truth, factors)]
        norm = self._update()
        if self._average:
            self._average.update(number)
        self._pending.append(_Pending(number, batch.indices, self.lr, terms, norm))

    def _parts(self, arrays: List[np.ndarray]) -> Iterator[Tuple[np.ndarray, ...]]:
        """A batch's arrays in `train.accumulate` parts, or as many as it has samples."""
        count = min(self.config.train.accumulate, len(arrays[0]))
        if not count:
            return iter(())  # among several ranks, the last batch may have nothing for this one
        return zip(*(np.array_split(array, count) for array in arrays))

    def _pass(self, images: np.ndarray, truth: list, factors: mx.nd.NDArray) -> List[mx.nd.NDArray]:
        """Forward and backward of samples over the devices; their terms of the loss."""
        contexts = self.contexts[: len(images)]
        shares = [self._feed.split(array, contexts) for array in (images, *truth)]
        passes = [
            partial(self._forward, x, y, factors.as_in_context(c)) for c, x, *y in zip(contexts, *shares)
        ]
        joint = self._synchronised and len(passes) > 1
        terms = Turns(len(passes)).run(passes) if joint else [go() for go in passes]
        autograd.backward([self._scaled(term) for term in terms])
        if self._recomputed:
            self._recomputed.backward()
        self._clear(self.contexts[len(contexts) :])
        return [term.detach() for term in terms]

    def _forward(
        self, images: mx.nd.NDArray, truth: List[mx.nd.NDArray], factors: mx.nd.NDArray
    ) -> mx.nd.NDArray:
        """The main head's terms, and with auxiliary heads one more for all of theirs."""
        with autograd.record():
            main, *others = [self._loss(scores, *truth) * factors for scores in self._heads(images)]
            if not others:
                return main
            aux = mx.nd.add_n(*others).sum() * self.config.train.aux_weight
            return mx.nd.concat(main, aux, dim=0)

    def _scaled(self, term: mx.nd.NDArray) -> mx.nd.NDArray:
        if self._scaler is None:
            return term
        with autograd.record():
            return term * self._scaler.scale

    def _update(self) -> Optional[mx.nd.NDArray]:
        """Sum the gradients over the devices, clip them, and update; the norm, if they are clipped."""
        train, norm = self.config.train, None
        scale = self._scaler.scale if self._scaler else 1.0
        self.trainer.allreduce_grads()
        if self._scaler and not self._scaler.passes([p.list_grad()[0] for p in self._trainable]):
            return None
        if train.clip:
            for device in range(len(self.contexts)):
                gradients = [p.list_grad()[device] for p in self._trainable]
                found = gluon.utils.clip_global_norm(gradients, train.clip * scale, check_isfinite=False)
                norm = found / scale if device == 0 else norm
        self.trainer.update(scale)
        return norm

    def losses(self) -> List[Step]:
        """The steps since the last call, in order; waits for the devices.

        NotANumber where the loss of one isn't finite.
        """
        names = [term.name for term in self._loss.terms]
        shares = self.ranks.gather(json.dumps([p.values() for p in self._pending]).encode())
        steps = [
            pending.read(names, np.sum([v for v in values if v], axis=0).tolist())
            for pending, *values in zip(self._pending, *map(json.loads, shares))
        ]
        self._pending = []
        for step in steps:
            if not np.isfinite(step.loss):
                raise NotANumber(step)
        return steps

    @property
    def lr(self) -> float:
        """The learning rate of the last step."""
        return float(self.trainer.learning_rate) * self.lr_scale

    def statistics(self, most: int = 5) -> List[str]:
        """A line for each of the layers whose gradients, on the first device, are largest.

        Those with values that are no numbers come first.
        """
        self.wait()
        rows = []
        for name, parameter in self._learned().items():
            weight, gradient = (
                abs(a.asnumpy().astype("float32")).max()
                for a in (parameter.list_data()[0], parameter.list_grad()[0])
            )
            rows.append((-np.nan_to_num(gradient, nan=np.inf), name, weight, gradient))
        return [
            f"{name}: largest weight {weight:.3g}, largest gradient {gradient:.3g}"
            for _, name, weight, gradient in sorted(rows)[:most]
        ]

    def finite(self) -> bool:
        """Whether all weights of the first device are numbers; waits for it."""
        return all_finite([p.list_data()[0] for p in self._trainable])

    def _clear(self, contexts: list) -> None:
        """Give devices a gradient of zero, to be summed with the others'."""
        for context in contexts:
            for parameter in self._trainable:
                parameter.grad(context)[:] = 0
                parameter.data(context)._fresh_grad = True

    def wait(self) -> None:
        """Let the devices finish; needed before running statistics are read.

        In a network hybridized with static_alloc, MXNet's engine doesn't know that the backward
        pass updates them, and a reader may get the values from before.
        """
        mx.nd.waitall()
        if self.ranks.size > 1:
            self._share_statistics()

    def _share_statistics(self) -> None:
        """Give this rank the first one's running statistics, with which networks are judged."""
        context, mine = self.contexts[0], {}
        if self.ranks.first:
            mine = {n: p.data(context).as_in_context(mx.cpu()) for n, p in self._statistics()}
        heard = mx.nd.load_frombuffer(self.ranks.from_first(run.pack(mine)))
        for name, parameter in self._statistics():
            parameter.data(context)[:] = heard[name].as_in_context(context)

    @contextmanager
    def judged(self) -> Iterator[None]:
        """The network as it is judged and kept: with its averaged weights, where there are any."""
        self.wait()
        if self._average is None:
            yield
            return
        with self._average.swapped():
            yield

    def _learned(self) -> Dict[str, Any]:
        return {n: p for n, p in self._parameters.items() if p.grad_req != "null"}

    # ---- what a checkpoint keeps

    def model_arrays(self) -> run.Arrays:
        """The first device's parameters and running statistics: the network that is evaluated."""
        self.wait()
        first = self.contexts[0]
        return {n: p.data(first).as_in_context(mx.cpu()) for n, p in self._parameters.items()}

    def optimizer_arrays(self) -> run.Arrays:
        """The optimizer's states, averaged weights, and each device's own running statistics."""
        self.wait()
        arrays = self._average.arrays() if self._average else {}
        for index, state in self.trainer._updaters[0].states.items():
            for slot, array in enumerate(_slots(state)):
                arrays[f"{index}.{slot}"] = array.as_in_context(mx.cpu())
        for name, parameter in self._statistics():
            for device, array in enumerate(parameter.list_data()):
                arrays[f"device{device}.{name}"] = array.as_in_context(mx.cpu())
        return arrays

    def counts(self) -> Dict[str, Any]:
        """The optimizer's counts of updates, for state.json."""
        optimizer = self.trainer._optimizer
        return {
            "num_update": optimizer.num_update,
            "index_counts": {str(k): v for k, v in optimizer._index_update_count.items()},
            "lr_scale": self.lr_scale,
            "loss_scale": self._scaler.state() if self._scaler else None,
        }

    def restore(self, model: run.Arrays, optimizer: run.Arrays, counts: Dict[str, Any]) -> None:
        """Go back to what a checkpoint kept; with as many devices as then, bit for bit."""
        run.put(self.net, model)
        for name, parameter in self._statistics():
            for device, context in enumerate(self.contexts):
                kept = optimizer.get(f"device{device}.{name}", model[name])
                parameter.data(context)[:] = kept.as_in_context(context)
        self._restore_states(optimizer)
        if self._average:
            self._average.restore(optimizer)
        if self._scaler:
            self._scaler.restore(counts["loss_scale"])
        self.lr_scale, self._pending = counts["lr_scale"], []
        updates = self.trainer._optimizer
        updates.num_update = counts["num_update"]
        for context in self.contexts:
            per_index = {int(k): v for k, v in counts["index_counts"].items()}
            updates._all_index_update_counts[context.device_id] = per_index
        updates._index_update_count = updates._all_index_update_counts[self.contexts[0].device_id]

    def _restore_states(self, kept: run.Arrays) -> None:
        for updater, context in zip(self.trainer._updaters, self.contexts):
            for index, parameter in enumerate(self._trainable):
                optimizer = self.trainer._optimizer
                empty = optimizer.create_state_multi_precision(index, parameter.data(context))
                if _slots(empty) and f"{index}.0" not in kept:
                    continue  # saved before the first step
                for slot, array in enumerate(_slots(empty)):
                    array[:] = kept[f"{index}.{slot}"].as_in_context(context)
                updater.states[index] = empty
                updater.states_synced[index] = True

    def _statistics(self) -> list:
        return [(n, p) for n, p in self._parameters.items() if "running" in n]


def _check_ranks(config: Config, ranks: Ranks) -> None:
    """UserError where several ranks can't do what the config asks of them."""
    if ranks.size > 1 and config.model.norm == "sync":
        raise UserError(
            f"model.norm=sync is for one process, and here are {ranks.size}: use model.norm=group"
        )


def _check_devices(config: Config, contexts: list) -> None:
    """UserError where the devices can't do what the config asks of them."""
    on_cpu = contexts[0].device_type == "cpu"
    if config.train.kvstore == "nccl" and on_cpu:
        raise UserError("train.kvstore=nccl sums over GPUs; on the CPU write train.kvstore=device")
    if config.train.recompute and config.model.norm == "sync" and len(contexts) > 1:
        raise UserError(
            "train.recompute=true can't run a network again whose devices wait for one another: with "
            f"{len(contexts)} devices use model.norm=batch or group"
        )
    if config.train.precision == "float16" and on_cpu:
        raise UserError(
            "train.precision=float16 is for GPUs: MXNet 1.9.1 has no float16 convolution for the "
            "CPU; write train.precision=float32"
        )


def check_crop(net: models.Network, config: Config, dim: int) -> None:
    """UserError where the config's crop doesn't fit the network, or the network the dataset."""
    if config.model.dim != dim:
        uses, has = ("signals", "images") if dim == 2 else ("images", "signals")
        raise UserError(
            f"model.dim={config.model.dim} is for {uses}, and this dataset has {has}: "
            f"write model.dim={dim}"
        )
    crop, stride = list(config.data.crop), net.stride
    if net.side and crop != [net.side] * dim:
        raise UserError(
            f"data.crop={crop}: this network is made for sides of {net.side} alone; "
            f"write data.crop={[net.side] * dim}"
        )
    fitting = [max(stride, round(side / stride) * stride) for side in config.data.crop]
    if fitting != crop:
        raise UserError(
            f"data.crop={crop}: this network takes sides in multiples of {stride}; "
            f"write data.crop={fitting}"
        )


def _encoder(net: models.Network, config: Config) -> list:
    """The trainable parameters of the encoder; UserError for settings of one that isn't there."""
    found = [p for p in models.encoder(net)[1].values() if p.grad_req != "null"]
    train = config.train
    for key, is_set in (
        ("encoder_lr", train.encoder_lr != 1),
        ("freeze_encoder_epochs", train.freeze_encoder_epochs),
    ):
        if is_set and not found:
            raise UserError(f"train.{key}: model {config.model.name} has none; set model.encoder")
    return found


def _slots(state: Any) -> list:
    """The arrays of an optimizer's state, which may be nested."""
    if state is None:
        return []
    return [a for s in state for a in _slots(s)] if isinstance(state, (tuple, list)) else [state]


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0] >> 1)
