"""The two questions that segtrain answers, as they were asked."""

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import HybridBlock, nn

from segtrain.layers import Blocks, Chain, Concat, Each, From, residual_chain

parts = Blocks()


class A(HybridBlock):
    """The encoder: a HybridBlock around a sequential container, which hands out its streams."""

    def __init__(self, widths):
        super().__init__()
        self.body = Chain(gives=["fine", "middle", "coarse"])
        self.body.add(parts.convs(widths[0]), name="fine")
        self.body.add(parts.pool())
        self.body.add(parts.convs(widths[1]), name="middle")
        self.body.add(parts.pool())
        self.body.add(parts.convs(widths[2]), name="coarse")

    def hybrid_forward(self, F, x):
        return self.body(x)


class B(HybridBlock):
    """The skip paths, each with convolutions of its own."""

    def __init__(self, widths):
        super().__init__()
        fine, middle = (Chain(*[parts.residual(w, w) for _ in range(2)]) for w in widths[:2])
        self.body = Each(fine, middle, Chain())

    def hybrid_forward(self, F, streams):
        return self.body(streams)


class C(HybridBlock):
    """The decoder, with `Concat` inside a sequential container."""

    def __init__(self, widths):
        super().__init__()
        self.body = Chain(takes=["fine", "middle", "coarse"])
        self.body.add(parts.up(widths[1]), Concat("middle"), parts.convs(widths[1]))
        self.body.add(parts.up(widths[0]), Concat("fine"), parts.convs(widths[0]))

    def hybrid_forward(self, F, streams):
        return self.body(streams)


def test_skip_connections_declared_wholly_in_init(tmp_path):
    net = nn.HybridSequential()
    net.add(A([8, 16, 24]), B([8, 16, 24]), C([8, 16, 24]), nn.Conv2D(5, 1))
    net.initialize(mx.init.MSRAPrelu())
    x = mx.nd.random.uniform(shape=(2, 3, 16, 24))
    eager = net(x)
    assert eager.shape == (2, 5, 16, 24)
    net.hybridize(static_alloc=True, static_shape=True)
    assert (net(x) == eager).min().asscalar() == 1
    net.export(str(tmp_path / "mix"))
    symbol, params = str(tmp_path / "mix-symbol.json"), str(tmp_path / "mix-0000.params")
    loaded = mx.gluon.SymbolBlock.imports(symbol, ["data"], params)
    assert (loaded(x) == eager).min().asscalar() == 1


def test_the_skip_paths_carry_what_the_decoder_gets():
    """Cut path B of the finest stream, and the output changes though the encoder doesn't."""
    net = nn.HybridSequential()
    b = B([8, 16, 24])
    net.add(A([8, 16, 24]), b, C([8, 16, 24]), nn.Conv2D(5, 1))
    net.initialize(mx.init.MSRAPrelu())
    x = mx.nd.random.uniform(shape=(1, 3, 16, 16))
    before = net(x)
    for parameter in b.body[0].collect_params(".*gamma|.*beta").values():
        parameter.set_data(parameter.data() * 0 + 0.3)
    assert np.abs((net(x) - before).asnumpy()).max() > 1e-3


def layers_of(chain):
    kinds = []
    chain.apply(lambda b: kinds.append(type(b).__name__) if not b._children else None)
    return kinds


def test_res_cnn1d_as_asked():
    """RES_CNN1D(10, 3, 2, chain_length=3): three units, the first of stride 2."""
    net = residual_chain(10, 3, 2, chain_length=3)
    main = layers_of(Chain(*list(net)[1:-2]))
    unit = ["Conv1D", "BatchNorm1D", "Activation"]
    assert main == [*unit, *unit, "Conv1D", "BatchNorm1D"]
    assert layers_of(list(net)[-1]) == ["Activation"]
    assert [list(net)[i]._kwargs["stride"] for i in (1, 4, 7)] == [(2,), (1,), (1,)]
    assert layers_of(list(net)[-2].through) == ["Conv1D", "BatchNorm1D"]
    net.initialize()
    x = mx.nd.random.uniform(shape=(4, 6, 101))
    assert net(x).shape == (4, 10, 51)
    with mx.autograd.record():
        loss = net(x).sum()
    loss.backward()


def test_the_input_is_added_before_the_last_relu():
    """With zeros for weights the path gives its last norm's shift: ReLU(shift + x)."""
    net = residual_chain(4, 3, from_channels=4)
    net.initialize(mx.init.Zero())
    last = list(net._collect_params_with_prefix().items())[-3]
    assert last[0].endswith("beta")
    last[1].set_data(mx.nd.full((4,), -0.5))
    x = mx.nd.random.uniform(-1, 1, shape=(2, 4, 9))
    assert np.allclose(net(x).asnumpy(), np.maximum(x.asnumpy() - 0.5, 0))


@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("padding", [None, 0, 1, 5])
@pytest.mark.parametrize(("first", "stride"), [(1, 1), (2, 1), (3, 2)])
def test_any_kernel_padding_and_stride(dim, kernel, padding, first, stride):
    for chain_length in (1, 2, 3):
        net = residual_chain(8, kernel, first, chain_length, stride, padding, dim)
        net.initialize()
        for length in (96, 97, 103):
            x = mx.nd.random.uniform(shape=(1, 4, *[length] * dim))
            eager = net(x)
            expected = length
            for each in [first, *[stride] * (chain_length - 1)]:
                pad = (kernel - 1) // 2 if padding is None else padding
                expected = (expected + 2 * pad - kernel) // each + 1
            assert eager.shape == (1, 8, *[expected] * dim)


def test_the_shortcut_is_centred_on_the_path():
    """A path of delta kernels and a shortcut of ones see the same samples of a ramp."""
    net = residual_chain(1, 5, 2, chain_length=2, stride=3, padding=0)
    net.initialize(mx.init.Zero())
    x = mx.nd.arange(60).reshape((1, 1, 60))
    net(x)
    for name, parameter in net._collect_params_with_prefix().items():
        if name.endswith("weight"):
            values = np.zeros(parameter.shape, np.float32)
            values[..., parameter.shape[-1] // 2] = 1
            parameter.set_data(mx.nd.array(values))
    scale = 1 / np.sqrt(1 + 1e-5)
    path, shortcut = Chain(*list(net)[1:6]), list(net)[-2].through
    assert path(x).shape == shortcut(x).shape
    assert np.allclose(path(x).asnumpy(), shortcut(x).asnumpy() * scale, rtol=1e-4)


def test_the_other_threads_example():
    """Two 1x1 convolutions and (l1 + X).relu()."""
    net = Chain(
        ("X", Chain()), nn.Conv2D(64, 1), nn.Conv2D(256, 1), residual_sum(), nn.Activation("relu")
    )
    net.initialize()
    x = mx.nd.random.uniform(-1, 1, shape=(1, 256, 4, 4))
    expected = (net[2](net[1](x)) + x).relu()
    assert (net(x) == expected).min().asscalar() == 1


def residual_sum():
    from segtrain.layers import Sum

    return Sum("X")


def test_from_reads_any_earlier_block():
    net = Chain(("a", nn.Conv2D(3, 1)), nn.Conv2D(8, 1), From("a"))
    net.initialize()
    x = mx.nd.random.uniform(shape=(1, 2, 4, 4))
    assert (net(x) == net[0](x)).min().asscalar() == 1
