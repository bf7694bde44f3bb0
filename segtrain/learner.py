"""Network, loss and optimizer on their devices: one step, and the state that a checkpoint keeps."""

from __future__ import annotations

from typing import Any, Dict

import mxnet as mx
import numpy as np
from mxnet import autograd, gluon

from segtrain import losses, models, run
from segtrain.config import Config
from segtrain.data.loader import Batch
from segtrain.errors import SegtrainError, UserError
from segtrain.schedule import scheduler


@mx.optimizer.register
class AdamW(mx.optimizer.Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, algorithm 2)."""

    def update(self, index, weight, grad, state):
        decayed, kept = weight * self._get_wd(index), self.wd
        self.wd: float = 0.0
        super().update(index, weight, grad, state)
        self.wd = kept
        weight[:] -= self._get_lr(index) * decayed


class Learner:
    """Trains a network on batches split over devices.

    The gradient is that of the whole batch's loss on any number of devices, for batches that
    don't divide too, and for fewer samples than devices.
    """

    def __init__(self, config: Config, dataset: Any, weights: np.ndarray, contexts: list, steps: int):
        self.config, self.contexts = config, contexts
        _check_devices(config, len(dataset.ids), contexts)
        self.net = models.network(
            config.model, len(dataset.classes), config.data.mean, config.data.std, len(contexts)
        )
        check_crop(self.net, config, getattr(dataset, "dim", 2))
        models.initialize(self.net, config.model, contexts, config.seed)
        self.net.hybridize(static_alloc=True, static_shape=True)
        self._terms = {k: v for k, v in config.train.loss.items() if v}
        if not self._terms:
            raise UserError("train.loss: no loss has a weight; write train.loss={ce: 1}")
        self._table = losses.pixel_weights(weights, dataset.ignore)
        self._loss = losses.Loss(list(self._terms), weights, dataset.ignore, config.model.dim)
        self._loss.initialize(ctx=contexts)
        self._loss.hybridize(static_alloc=True, static_shape=True)
        self._parameters = self.net._collect_params_with_prefix()
        self._encoder = _encoder(self.net, config)
        # The trainer must not know of running statistics: its first step overwrites those of the
        # other devices with the first one's.
        self._trainable = [p for p in self._parameters.values() if p.grad_req != "null"]
        self.trainer = _trainer(config, self._trainable, steps)
        self._pending: list[list[mx.nd.NDArray]] = []

    def load_encoder(self) -> str:
        """Give the encoder the weights that the config asks for; says what was loaded."""
        return models.load_encoder(self.net, self.config.model)

    def begin(self, epoch: int) -> None:
        """Set the encoder's share of the learning rate, zero in the epochs that freeze it."""
        train = self.config.train
        for parameter in self._encoder:
            parameter.lr_mult = 0 if epoch < train.freeze_encoder_epochs else train.encoder_lr

    def step(self, batch: Batch, number: int) -> None:
        """Forward, backward, update, as the `number`-th step; never waits for a device."""
        mx.random.seed(_seed(self.config.seed, number))
        contexts = self.contexts[: len(batch.images)]
        norms = losses.normalisers(list(self._terms), batch.masks, self._table)
        factors = mx.nd.array([w / n for w, n in zip(self._terms.values(), norms)])
        shares = [_split(array, contexts) for array in (batch.images, batch.masks)]
        with autograd.record():
            terms = [
                self._weighted(self.net.heads(x), y, factors.as_in_context(c))
                for x, y, c in zip(*shares, contexts)
            ]
        autograd.backward(terms)
        self._clear_idle(self.contexts[len(contexts) :])
        self.trainer.step(1)
        self._pending.append([term.detach() for term in terms])

    def _weighted(self, heads: list, masks: mx.nd.NDArray, factors: mx.nd.NDArray) -> mx.nd.NDArray:
        """The main head's terms, and with auxiliary heads one more for all of theirs."""
        main, *others = [self._loss(scores, masks) * factors for scores in heads]
        if not others:
            return main
        aux = mx.nd.add_n(*others).sum() * self.config.train.aux_weight
        return mx.nd.concat(main, aux, dim=0)

    def losses(self) -> list[Dict[str, float]]:
        """Each loss, times its weight, of each step since the last call; waits for the devices.

        The auxiliary heads' losses are one entry, 'aux'.

        SegtrainError where one is not a number.
        """
        steps = [np.sum([t.asnumpy() for t in terms], axis=0, dtype=float) for terms in self._pending]
        self._pending = []
        if not np.isfinite(steps).all():
            raise SegtrainError(
                f"the loss is no longer a number (lr {self.lr:.3g}): set train.lr lower or "
                "train.warmup higher; the last checkpoint is from before that"
            )
        return [dict(zip([*self._terms, "aux"], values.tolist())) for values in steps]

    @property
    def lr(self) -> float:
        """The learning rate of the last step."""
        return float(self.trainer.learning_rate)

    def _clear_idle(self, contexts: list) -> None:
        """Give devices without samples a gradient of zero, to be summed with the others'."""
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

    # ---- what a checkpoint keeps

    def model_arrays(self) -> run.Arrays:
        """The first device's parameters and running statistics: the network that is evaluated."""
        self.wait()
        first = self.contexts[0]
        return {n: p.data(first).as_in_context(mx.cpu()) for n, p in self._parameters.items()}

    def optimizer_arrays(self) -> run.Arrays:
        """The optimizer's states by parameter, and each device's own running statistics."""
        self.wait()
        arrays = {}
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
        }

    def restore(self, model: run.Arrays, optimizer: run.Arrays, counts: Dict[str, Any]) -> None:
        """Go back to what a checkpoint kept; with as many devices as then, bit for bit."""
        run.put(self.net, model)
        for name, parameter in self._statistics():
            for device, context in enumerate(self.contexts):
                kept = optimizer.get(f"device{device}.{name}", model[name])
                parameter.data(context)[:] = kept.as_in_context(context)
        self._restore_states(optimizer)
        updates = self.trainer._optimizer
        updates.num_update = counts["num_update"]
        for context in self.contexts:
            per_index = {int(k): v for k, v in counts["index_counts"].items()}
            updates._all_index_update_counts[context.device_id] = per_index
        updates._index_update_count = updates._all_index_update_counts[self.contexts[0].device_id]

    def _restore_states(self, kept: run.Arrays) -> None:
        for updater, context in zip(self.trainer._updaters, self.contexts):
            for index, parameter in enumerate(self._trainable):
                empty = self.trainer._optimizer.create_state(index, parameter.data(context))
                if _slots(empty) and f"{index}.0" not in kept:
                    continue  # saved before the first step
                for slot, array in enumerate(_slots(empty)):
                    array[:] = kept[f"{index}.{slot}"].as_in_context(context)
                updater.states[index] = empty
                updater.states_synced[index] = True

    def _statistics(self) -> list:
        return [(n, p) for n, p in self._parameters.items() if "running" in n]


def _check_devices(config: Config, samples: int, contexts: list) -> None:
    """UserError where the devices can't do what the config asks of them."""
    on_cpu = contexts[0].device_type == "cpu"
    if config.train.kvstore == "nccl" and on_cpu:
        raise UserError("train.kvstore=nccl sums over GPUs; on the CPU write train.kvstore=device")
    if config.model.norm != "sync" or len(contexts) == 1:
        return
    if on_cpu:
        raise UserError(
            "model.norm=sync would hang on several CPU devices (MXNet 1.9.1); "
            "use model.norm=group, or one device"
        )
    smallest = samples % config.train.batch or min(samples, config.train.batch)
    if smallest < len(contexts):
        raise UserError(
            f"model.norm=sync needs a sample for each of the {len(contexts)} devices, and the last "
            f"batch has {smallest}: change train.batch"
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


def _trainer(config: Config, parameters: list, steps: int) -> gluon.Trainer:
    train = config.train
    for parameter in parameters:
        if not parameter.name.endswith("weight"):
            parameter.wd_mult = 0.0
    options: Dict[str, Any] = {"wd": train.weight_decay, "lr_scheduler": scheduler(train, steps)}
    options["momentum" if train.optimizer == "sgd" else "beta1"] = train.momentum
    options["learning_rate"] = train.lr
    return gluon.Trainer(
        parameters, train.optimizer, options, kvstore=train.kvstore, update_on_kvstore=False
    )


def _split(array: np.ndarray, contexts: list) -> list:
    whole = mx.nd.array(array, dtype=array.dtype, ctx=mx.cpu())
    return gluon.utils.split_and_load(whole, contexts, even_split=False)


def _slots(state: Any) -> list:
    if state is None:
        return []
    return list(state) if isinstance(state, (tuple, list)) else [state]


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0] >> 1)
