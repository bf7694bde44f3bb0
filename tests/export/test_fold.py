"""Folded norms and rewritten upsampling against the networks that they came from."""

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import nn

from segtrain import models
from segtrain.config import Model
from segtrain.export import fold
from segtrain.export.network import Network, of


class Bare:
    """A trained network, as far as network.of wants one."""

    def __init__(self, net):
        self.net = net


def trained(net, shape, seed=0):
    """The network with running statistics and weights unlike their first values."""
    rng = np.random.default_rng(seed)
    net(mx.nd.zeros(shape))
    for name, parameter in net.collect_params().items():
        if name.endswith(("gamma", "running_var")):
            parameter.set_data(mx.nd.array(rng.uniform(0.5, 2, parameter.shape)))
        elif name.endswith(("beta", "running_mean", "bias")):
            parameter.set_data(mx.nd.array(rng.normal(0, 1, parameter.shape)))
    return of(Bare(net))


def assert_same(before, after, shape, seed=1):
    x = np.random.default_rng(seed).integers(0, 256, shape).astype(np.float32)
    a, b = before.run(x), after.run(x)
    assert a.shape == b.shape
    assert np.abs(a - b).max() <= 1e-5 * np.abs(a).max()


@pytest.mark.parametrize(
    ("name", "options", "norms"),
    [
        ("unet", {"widths": [8, 16, 24]}, (10, 0)),
        ("unet", {"widths": [8, 16], "dim": 1, "skip": "residual"}, (8, 0)),
        ("unetpp", {"widths": [8, 16]}, (6, 0)),
        ("attention_unet", {"widths": [8, 16]}, (10, 0)),
        ("gridnet", {"widths": [4, 6], "down_columns": 1, "up_columns": 1}, (8, 5)),
        ("resunet", {"widths": [8, 16]}, (3, 2)),
        ("fcdensenet", {"growth": 4, "layers": [1, 1, 1], "stem": 4}, (0, 4)),
    ],
)
def test_batch_norms_into_convolutions(name, options, norms):
    model = Model(name=name, **options)
    net = models.network(model, 3)
    models.initialize(net, model, [mx.cpu()], seed=0)
    shape = (2, 3, 24, 40)[: 2 + model.dim]
    before = trained(net, shape)
    symbol, arrays, count = fold.batch_norms(before.symbol, before.arrays)
    assert (count, symbol.tojson().count('"op": "BatchNorm"')) == norms
    assert_same(before, Network(symbol, arrays), shape)
    assert_same(before, Network(symbol, arrays), (1, 3, 17, 31)[: 2 + model.dim])


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("bias", [False, True])
def test_of_transposed_convolutions_too(groups, bias):
    net = nn.HybridSequential()
    net.add(nn.Conv2DTranspose(8, 3, 2, 1, groups=groups, use_bias=bias, in_channels=4))
    net.add(nn.BatchNorm(scale=False))
    net.initialize(mx.init.Xavier())
    before = trained(net, (1, 4, 9, 7))
    symbol, arrays, count = fold.batch_norms(before.symbol, before.arrays)
    assert count == 1
    assert_same(before, Network(symbol, arrays), (2, 4, 9, 7))


def test_a_convolution_that_others_read_keeps_its_norm():
    data = mx.sym.var("data")
    conv = mx.sym.Convolution(data, kernel=(1, 1), num_filter=4, name="conv")
    both = mx.sym.BatchNorm(conv, name="norm") + conv
    names = {*both.list_arguments(), *both.list_auxiliary_states()} - {"data"}
    arrays = {n: np.ones((4, 3, 1, 1) if n == "conv_weight" else 4, np.float32) for n in names}
    symbol, kept, count = fold.batch_norms(both, arrays)
    assert count == 0 and set(kept) == names
    assert_same(Network(both, arrays), Network(symbol, kept), (1, 3, 4, 5))


@pytest.mark.parametrize("dim", [2])
@pytest.mark.parametrize("name", ["unet", "unetpp", "gridunet"])
def test_upsampling_as_a_convolution_of_pixels(name, dim):
    model = Model(name=name, widths=[8, 16, 24], dim=dim)
    net = models.network(model, 3)
    models.initialize(net, model, [mx.cpu()], seed=0)
    before = trained(net, (1, 3, 16, 16))
    symbol, arrays, count = fold.upsampling(before.symbol, before.arrays)
    assert count > 0 and "Deconvolution" not in symbol.tojson()
    assert_same(before, Network(symbol, arrays), (2, 3, 24, 40))
