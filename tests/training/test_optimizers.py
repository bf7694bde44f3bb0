"""Each optimizer is what its paper says, in float64, over ten steps of changing gradients."""

from typing import get_args

import mxnet as mx
import numpy as np
import pytest
from mxnet import gluon

from segtrain.config import Train
from segtrain.training.optimizers import OPTIMIZERS, trainer

STEPS, LR, WD = 10, 0.05, 0.1
RNG = np.random.default_rng(3)
START = RNG.normal(size=(4, 3))
GRADIENTS = RNG.normal(size=(STEPS, 4, 3))


def ours(**train):
    """The weights after each step under a constant learning rate."""
    config = Train(epochs=1, lr=LR, schedule="constant", weight_decay=WD, **train)
    weight = gluon.Parameter("weight", shape=START.shape)
    weight.initialize(mx.init.Constant(mx.nd.array(START)))
    updates = trainer(config, [weight], STEPS)
    path = []
    for gradient in GRADIENTS:
        weight.grad()[:] = mx.nd.array(gradient)
        weight.data()._fresh_grad = True
        updates.step(1)
        path.append(weight.data().asnumpy())
    return np.array(path)


def path_of(update):
    """The weights after each step of `update(w, g, t, kept)`, where `kept` is a dict of arrays."""
    w, kept, path = START.copy(), {}, []
    for t, g in enumerate(GRADIENTS, 1):
        w = update(w, g, t, kept)
        path.append(w)
    return np.array(path)


def average(kept, name, value, decay):
    kept[name] = decay * kept.get(name, 0) + (1 - decay) * value
    return kept[name]


def sgd(w, g, t, kept):
    kept["v"] = 0.9 * kept.get("v", 0) - LR * (g + WD * w)
    return w + kept["v"]


def nag(w, g, t, kept):
    """Sutskever et al. 2013, equations 3 and 4, in terms of the weights looked ahead to."""
    before = kept.get("v", 0)
    kept["v"] = 0.9 * before - LR * (g + WD * w)
    return w - 0.9 * before + 1.9 * kept["v"]


def adam(w, g, t, kept, decay=WD, beta2=0.999):
    """Kingma & Ba 2015, with the bias corrections in the step size (end of section 2)."""
    g = g + decay * w
    m, v = average(kept, "m", g, 0.9), average(kept, "v", g * g, beta2)
    return w - LR * np.sqrt(1 - beta2**t) / (1 - 0.9**t) * m / (np.sqrt(v) + 1e-8)


def adamw(w, g, t, kept):
    """Loshchilov & Hutter 2019, algorithm 2."""
    return adam(w, g, t, kept, decay=0) - LR * WD * w


def lamb(w, g, t, kept):
    """You et al. 2020, algorithm 2, with phi(x) = x."""
    m = average(kept, "m", g, 0.9) / (1 - 0.9**t)
    v = average(kept, "v", g * g, 0.999) / (1 - 0.999**t)
    update = m / (np.sqrt(v) + 1e-6) + WD * w
    return w - LR * np.linalg.norm(w) / np.linalg.norm(update) * update


def rmsprop(w, g, t, kept, rho=0.9):
    """Tieleman & Hinton 2012, lecture 6e, slide 29."""
    g = g + WD * w
    return w - LR * g / np.sqrt(average(kept, "n", g * g, rho) + 1e-8)


def adagrad(w, g, t, kept):
    """Duchi et al. 2011, figure 1; MXNet decays the weights apart from the gradient."""
    kept["h"] = kept.get("h", 0) + g * g
    return w - LR * (g / np.sqrt(kept["h"] + 1e-7) + WD * w)


@pytest.mark.parametrize("update", [sgd, nag, adam, adamw, lamb, rmsprop, adagrad])
def test_updates_are_the_papers(update):
    assert ours(optimizer=update.__name__) == pytest.approx(path_of(update), rel=2e-5, abs=1e-5)


def test_beta2_reaches_the_optimizers_that_have_one():
    expected = path_of(lambda *a: adam(*a, beta2=0.9))
    assert ours(optimizer="adam", beta2=0.9) == pytest.approx(expected, rel=2e-5, abs=1e-5)
    expected = path_of(lambda *a: rmsprop(*a, rho=0.99))
    assert ours(optimizer="rmsprop", beta2=0.99) == pytest.approx(expected, rel=2e-5, abs=1e-5)
    assert np.abs(ours(optimizer="lamb", beta2=0.9) - ours(optimizer="lamb")).max() > 1e-3


def test_every_name_of_the_config_has_an_optimizer():
    assert set(get_args(Train.model_fields["optimizer"].annotation)) == set(OPTIMIZERS)
