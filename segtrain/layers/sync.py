"""Batch norm over the samples of all devices.

MXNet's own hangs when one Python thread feeds the devices, and now and then when one thread each
does. Here each device's forward pass has a thread, but one runs at a time: it hands over at each
norm, where the devices exchange their sums as arrays. So the pass of all devices is one graph, and
one backward pass goes through the exchanges.
"""

from __future__ import annotations

import threading
from typing import Any, Callable, Dict, List, Sequence

import mxnet as mx
from mxnet import autograd
from mxnet.gluon import nn

_here = threading.local()


class Turns:
    """Runs functions by turns, each in its own thread, and lets them exchange values."""

    def __init__(self, count: int):
        self._count = count
        self._turns = [threading.Semaphore(int(i == 0)) for i in range(count)]
        self._rounds: Dict[int, List[Any]] = {}
        self._failed = False

    def run(self, functions: Sequence[Callable[[], Any]]) -> List[Any]:
        """What each function returns; the first one's error where one fails."""
        results: List[Any] = [None] * self._count
        errors: List[BaseException] = []

        def go(index: int) -> None:
            _here.turns, _here.index, _here.round = self, index, 0
            self._turns[index].acquire()
            try:
                if not self._failed:
                    results[index] = functions[index]()
            except BaseException as error:
                errors.append(error)
                self._failed = True
            self._next(index)

        threads = [threading.Thread(target=go, args=(i,)) for i in range(self._count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        return results

    def exchange(self, value: Any) -> List[Any]:
        """The values that all the functions hand in at the same place, in their order."""
        values = self._rounds.setdefault(_here.round, [])
        _here.round += 1
        values.append(value)
        self._next(_here.index)
        self._turns[_here.index].acquire()
        if self._failed:
            raise RuntimeError("another device's pass failed")
        return values

    def _next(self, index: int) -> None:
        self._turns[(index + 1) % self._count].release()


class SyncBatchNorm(nn.BatchNorm):
    """Batch norm whose training statistics are those of all devices' samples, within `Turns.run`.

    Elsewhere, and in inference, it is batch norm. (N, C, H, W), or (N, C, L) with dim 1.
    """

    def __init__(self, dim: int = 2, **options: Any):
        super().__init__(**options)
        self._dim = dim

    def hybrid_forward(self, F, x, gamma, beta, running_mean, running_var):
        turns = getattr(_here, "turns", None)
        frozen = self._kwargs["use_global_stats"]
        if F is mx.nd and turns and autograd.is_training() and not frozen:
            return self._joint(turns, x, gamma, beta, running_mean, running_var)
        x = F.expand_dims(x, axis=2) if self._dim == 1 else x
        y = super().hybrid_forward(F, x, gamma, beta, running_mean, running_var)
        return F.squeeze(y, axis=2) if self._dim == 1 else y

    def _joint(self, turns: Turns, x, gamma, beta, running_mean, running_var):
        shape, dtype = (1, -1, *[1] * self._dim), x.dtype
        x = x.astype("float32", copy=False)  # sums of float16 overflow
        sums = turns.exchange((x.sum(axis=1, exclude=True), x.size // x.shape[1]))
        count = sum(size for _, size in sums)
        mean = mx.nd.add_n(*[s.as_in_context(x.context) for s, _ in sums]) / count
        centred = x - mean.reshape(shape)
        squares = turns.exchange(mx.nd.square(centred).sum(axis=1, exclude=True))
        var = mx.nd.add_n(*[s.as_in_context(x.context) for s in squares]) / count
        with autograd.pause():
            momentum = self._kwargs["momentum"]
            for running, now in ((running_mean, mean), (running_var, var)):
                running[:] = momentum * running + (1 - momentum) * now
        scale = mx.nd.rsqrt(var + self._kwargs["eps"])
        if not self._kwargs["fix_gamma"]:
            scale = scale * gamma
        y = centred * scale.reshape(shape) + beta.reshape(shape)
        return y.astype(dtype, copy=False)
