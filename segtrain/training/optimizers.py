"""Optimizers by name: MXNet's, with the config's options under each one's own names."""

from __future__ import annotations

from typing import Any, Dict, Tuple

import mxnet as mx
from mxnet import gluon

from segtrain.config import Train
from segtrain.training.schedule import scheduler


class AdamW(mx.optimizer.Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, algorithm 2)."""

    def update(self, index, weight, grad, state):
        decayed, kept = weight * self._get_wd(index), self.wd
        self.wd: float = 0.0
        super().update(index, weight, grad, state)
        self.wd = kept
        weight[:] -= self._get_lr(index) * decayed


class NAG(mx.optimizer.Optimizer):
    """Nesterov's accelerated gradient (Sutskever et al. 2013, equations 3 and 4).

    MXNet's own decays the momentum by the weights of before or after the update, whichever their
    layout in memory leads to, and so differs in a resumed run: here its kernel gets no decay to do.
    """

    def __init__(self, momentum: float = 0.0, **options: Any):
        super().__init__(**options)
        self.momentum = momentum

    def create_state(self, index, weight):
        return mx.nd.zeros_like(weight)

    def update(self, index, weight, grad, state):
        self._update_count(index)
        whole = grad * self.rescale_grad + weight * self._get_wd(index)
        lr = self._get_lr(index)
        mx.nd.nag_mom_update(weight, whole, state, out=weight, lr=lr, momentum=self.momentum)


# The class, and what it calls the config's options. Nadam, LARS and LBSGD aren't here: their
# state isn't all in arrays, so that a resumed run would differ.
OPTIMIZERS: Dict[str, Tuple[type, Dict[str, str]]] = {
    "sgd": (mx.optimizer.SGD, {"momentum": "momentum"}),
    "nag": (NAG, {"momentum": "momentum"}),
    "adam": (mx.optimizer.Adam, {"momentum": "beta1", "beta2": "beta2"}),
    "adamw": (AdamW, {"momentum": "beta1", "beta2": "beta2"}),
    "lamb": (mx.optimizer.LAMB, {"momentum": "beta1", "beta2": "beta2"}),
    "rmsprop": (mx.optimizer.RMSProp, {"beta2": "gamma1"}),
    "adagrad": (mx.optimizer.AdaGrad, {}),
}


def trainer(train: Train, parameters: list, steps: int, store: Any = None) -> gluon.Trainer:
    """The trainer of `parameters` over epochs of `steps`; only weights decay, no bias or norm.

    store: what sums the gradients in place of train.kvstore, among several ranks.
    """
    for parameter in parameters:
        if not parameter.name.endswith("weight"):
            parameter.wd_mult = 0.0
    made, named = OPTIMIZERS[train.optimizer]
    options = {theirs: getattr(train, ours) for ours, theirs in named.items()}
    optimizer = made(
        learning_rate=train.lr,
        lr_scheduler=scheduler(train, steps),
        wd=train.weight_decay,
        multi_precision=train.precision == "float16",
        **{name: value for name, value in options.items() if value is not None},
    )
    return gluon.Trainer(parameters, optimizer, kvstore=store or train.kvstore, update_on_kvstore=False)
