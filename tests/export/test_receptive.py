"""Receptive fields against a probe: which pixels of an image have a gradient at one score."""

import mxnet as mx
import numpy as np
import pytest

from segtrain import models
from segtrain.config import Model
from segtrain.export.receptive import WHOLE, receptive_field


def positive(net):
    """Weights above zero and norms that shift up, so that no path is blocked or cancels out."""
    rng = np.random.default_rng(0)
    for name, parameter in net.collect_params().items():
        if name.endswith("weight"):
            values = rng.uniform(0.5, 1.5, parameter.shape) / np.prod(parameter.shape[1:])
            parameter.set_data(mx.nd.array(values))


def linear(symbol):
    """Max pooling passes a gradient to one of its pixels only, the mean to all; and the gradient of
    a batch norm is that of the batch's statistics unless told otherwise."""
    text = symbol.tojson().replace('"pool_type": "max"', '"pool_type": "avg"')
    return mx.sym.load_json(text.replace('"use_global_stats": "False"', '"use_global_stats": "True"'))


def probed(net, side, stride, channels, dim):
    """The largest extent of the gradient at any of a stride's pixels in the middle, per axis."""
    symbol = linear(net.heads(mx.sym.var("data"))[0])
    block = mx.gluon.SymbolBlock(symbol, mx.sym.var("data"), params=net.collect_params())
    x = mx.nd.ones((1, channels, *[side] * dim)) * (200 if dim == 2 else 0.2)
    x.attach_grad()
    extents, middle = [], side // 2 // stride * stride
    for phase in range(stride):
        with mx.autograd.record():
            score = block(x)[(0, 0, *[middle + phase] * dim)]
        score.backward()
        touched = np.abs(x.grad.asnumpy()[0]).sum(axis=0) > 0
        places = [np.flatnonzero(touched.any(axis=tuple(set(range(dim)) - {a}))) for a in range(dim)]
        assert all(p[0] > 0 and p[-1] < side - 1 for p in places), "the probe's image is too small"
        extents.append([p[-1] - p[0] + 1 for p in places])
    return np.max(extents, axis=0).tolist()


@pytest.mark.parametrize(
    ("name", "options", "side"),
    [
        ("unet", {"widths": [4, 4, 4]}, 128),
        ("unet", {"widths": [4, 4], "fold": 2}, 128),
        ("unet", {"widths": [4, 4, 4], "padding": "valid"}, 128),
        ("unet", {"widths": [4, 4], "up": "nearest", "skip": "residual"}, 96),
        ("gridnet", {"widths": [3, 3], "down_columns": 1, "up_columns": 1}, 96),
        ("segnet", {"widths": [4, 4], "units": [1, 2]}, 96),
        ("fcdensenet", {"growth": 2, "layers": [1, 1, 1], "stem": 4}, 96),
        ("unet", {"widths": [4, 4, 4], "dim": 1}, 256),
        ("phasenet", {"widths": [4, 4], "dim": 1}, 512),
        ("utime", {"widths": [3, 3], "pools": [2], "dim": 1}, 256),
    ],
)
def test_it_is_what_a_gradient_shows(name, options, side):
    model = Model(name=name, **options)
    net = models.network(model, 2)
    models.initialize(net, model, [mx.cpu()], seed=0)
    positive(net)
    shape = (1, 3, *[2 * net.stride] * model.dim)
    field = receptive_field(net.heads(mx.sym.var("data"))[0], shape, net.stride)
    assert field.exact or name == "segnet"
    assert field.extent == probed(net, side, net.stride, 3, model.dim)


def test_a_bilinear_resize_gives_an_upper_bound():
    model = Model(name="unet", widths=[4, 4], up="bilinear")
    net = models.network(model, 2)
    models.initialize(net, model, [mx.cpu()], seed=0)
    positive(net)
    field = receptive_field(net.heads(mx.sym.var("data"))[0], (1, 3, 4, 4), net.stride)
    assert not field.exact
    least = probed(net, 64, net.stride, 3, 2)
    assert all(a <= b <= a + 6 for a, b in zip(least, field.extent))


@pytest.mark.parametrize(
    "options",
    [
        {"name": "resnet1d", "dim": 1, "widths": [4, 4], "kernels": [3], "whole": True},
        {"name": "unet", "widths": [4, 4], "norm": "group"},
    ],
)
def test_a_look_at_all_of_the_image_is_said(options):
    model = Model(**options)
    net = models.network(model, 2)
    field = receptive_field(net.heads(mx.sym.var("data"))[0], (1, 3, *[8] * model.dim), net.stride)
    assert field == (WHOLE, True)
