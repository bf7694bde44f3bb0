import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd
from mxnet.gluon import nn

from segtrain.layers import Blocks, Fit, Fold, Normalize, TotalDropout, Unfold
from segtrain.layers.sync import SyncBatchNorm, Turns


def shape_of(block, shape):
    block.initialize(mx.init.Xavier())
    return block(mx.nd.random.uniform(shape=shape)).shape


@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("norm", ["batch", "group", "none"])
@pytest.mark.parametrize("pre", [False, True])
def test_sizes_and_widths(dim, norm, pre):
    blocks = Blocks(dim=dim, norm=norm, pre=pre)
    x, half = (2, 8, 12, 10)[: dim + 2], (6, 5)[:dim]
    same = (12, 10)[:dim]
    assert shape_of(blocks.conv(16, from_width=8), x) == (2, 16, *same)
    assert shape_of(blocks.conv(16, kernel=5, stride=2, from_width=8), x) == (2, 16, *half)
    assert shape_of(blocks.residual(8, 8, units=3), x) == (2, 8, *same)
    assert shape_of(blocks.residual(16, 8, stride=2), x) == (2, 16, *half)
    assert shape_of(blocks.residual(8, 8, units=1, stride=2), x) == (2, 8, *half)
    assert shape_of(blocks.pool(), x) == (2, 8, *half)
    assert shape_of(blocks.head(3), x) == (2, 3, *same)


@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("upsampling", ["deconv", "bilinear", "nearest"])
def test_up_doubles(dim, upsampling):
    up = Blocks(dim=dim, upsampling=upsampling).up(4)
    assert shape_of(up, (2, 8, 5, 7)[: dim + 2]) == (2, 4, *(10, 14)[:dim])


@pytest.mark.parametrize("kernel", [2, 3, 4, 5])
def test_deconv_gives_exactly_twice_the_size(kernel):
    assert shape_of(Blocks().deconv(4, kernel), (1, 3, 5, 7)) == (1, 4, 10, 14)


def test_a_residual_of_equal_shape_adds_the_input_itself():
    block = Blocks(norm="none").residual(3, 3)
    block.initialize(mx.init.Zero())
    x = mx.nd.random.uniform(shape=(1, 3, 4, 4))
    assert (block(x) == x).min().asscalar() == 1


def test_a_stride_alone_is_projected():
    names = list(Blocks().residual(8, 8, stride=2)._collect_params_with_prefix())
    assert any("through" in name for name in names)


def test_normalize_takes_raw_pixels():
    block = Normalize([10, 20, 30], [2, 4, 8])
    block.initialize()
    x = mx.nd.array(np.array([12, 24, 38]).reshape(1, 3, 1, 1), dtype="uint8")
    assert block(x).asnumpy().ravel().tolist() == [1, 1, 1]


def test_fold_and_unfold_are_inverse():
    x = mx.nd.random.uniform(shape=(2, 3, 8, 12))
    fold, unfold = Fold(4, 3), Unfold(4, 3)
    for block in (fold, unfold):
        block.initialize()
    assert (fold(x) == x.space_to_depth(4)).min().asscalar() == 1
    assert (unfold(fold(x)) == x).min().asscalar() == 1


def test_total_dropout_drops_all_or_nothing():
    block = TotalDropout(0.3)
    block.initialize()
    block.hybridize()
    x = mx.nd.ones((2, 3, 4, 4))
    assert (block(x) == x).min().asscalar() == 1
    mx.random.seed(0)
    with mx.autograd.train_mode():
        drawn = [block(x).asnumpy() for _ in range(300)]
    assert all(d.min() == d.max() and d.max() in (0, 1) for d in drawn)
    assert np.mean([d.max() for d in drawn]) == pytest.approx(0.7, abs=0.08)


def test_batch_norm_in_1d_equals_that_in_2d():
    one, two = Blocks(dim=1).norms(8)[0], Blocks(dim=2).norms(8)[0]
    x = mx.nd.random.uniform(shape=(4, 8, 50))
    for block in (one, two):
        block.initialize()
    with mx.autograd.record():
        y, z = one(x), two(x.expand_dims(2)).squeeze(axis=2)
    assert np.abs((y - z).asnumpy()).max() < 1e-6


def test_group_norm_has_a_scale_per_channel():
    norm = Blocks(norm="group").norms(16)[0]
    norm.initialize()
    x = np.random.default_rng(0).normal(3, 5, (2, 16, 4, 6)).astype(np.float32)
    grouped = x.reshape(2, 8, -1)
    expected = (grouped - grouped.mean(2, keepdims=True)) / grouped.std(2, keepdims=True)
    assert np.abs(norm(mx.nd.array(x)).asnumpy() - expected.reshape(x.shape)).max() < 1e-3
    assert norm.gamma.shape == (16,)


@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("hybridized", [False, True])
def test_prelu_learns_its_slopes_in_place_too(dim, hybridized):
    """Between convolutions, which is where MXNet overwrites what goes in."""
    blocks = Blocks(dim=dim)
    net = nn.HybridSequential()
    net.add(blocks.plain_conv(4, 1), blocks.prelu(4), blocks.plain_conv(2, 1))
    net.initialize(mx.init.Xavier())
    x = mx.nd.random.normal(shape=(2, 3, 6, 5)[: dim + 2])
    net(x)
    if hybridized:
        net.hybridize(static_alloc=True, static_shape=True)
    slopes = net[1].alpha
    with autograd.record():
        loss = (net(x) ** 2).sum()
    loss.backward()
    middle = net[0](x)
    middle.attach_grad()
    with autograd.record():
        given = mx.nd.maximum(middle, 0) + 0.25 * mx.nd.minimum(middle, 0)
        given.attach_grad()
        loss = (net[2](given) ** 2).sum()
    loss.backward()
    expected = (given.grad * mx.nd.minimum(middle, 0)).sum(axis=1, exclude=True)
    assert np.allclose(slopes.grad().asnumpy().ravel(), expected.asnumpy(), rtol=1e-4)


@pytest.mark.parametrize("choice", [{"norm": "bach"}, {"upsampling": "cubic"}, {"dim": 3}])
def test_an_unknown_choice_lists_the_known(choice):
    with pytest.raises(ValueError, match="is none of"):
        Blocks(**choice)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("stride", [1, 2, 15, 16])
@pytest.mark.parametrize("sides", [(1,), (40,), (300,), (2, 3), (16, 16), (360, 17), (5, 257)])
def test_fit_mirrors_up_to_the_stride_as_numpy_does(dtype, stride, sides):
    x = np.random.default_rng(0).integers(0, 256, (2, 3, *sides)).astype(dtype)
    margins = [(0, 0), (0, 0), *[(0, -side % stride) for side in sides]]
    fit = Fit(stride, len(sides))
    for _ in range(2):
        made = fit(mx.nd.array(x, dtype=dtype))
        assert made.dtype == np.dtype(dtype)
        assert (made.asnumpy() == np.pad(x, margins, mode="reflect")).all()
        fit.hybridize(static_alloc=True, static_shape=True)


@pytest.mark.parametrize(("kernel", "stride"), [(2, 2), (7, 4), (3, 2), (6, 3)])
def test_a_1d_deconvolution_is_mxnets(kernel, stride):
    """Up to the order of its weights."""
    ours = Blocks(dim=1).deconv(5, kernel, stride)
    pad = (kernel - stride + 1) // 2
    theirs = nn.Conv1DTranspose(5, kernel, stride, pad, 2 * pad - (kernel - stride))
    x = mx.nd.random.normal(shape=(2, 3, 11))
    for net in (ours, theirs):
        net.initialize(mx.init.Normal(1))
        net(x)
    weight = ours.weight.data().asnumpy().transpose(1, 0, 2)[:, :, ::-1]
    theirs.weight.set_data(mx.nd.array(weight.copy()))
    assert ours(x).shape == (2, 5, 11 * stride)
    assert np.abs((ours(x) - theirs(x)).asnumpy()).max() < 1e-5


def test_synchronised_norm_of_float16_is_that_of_float32():
    """Though the sum over a channel is far beyond what a float16 can hold."""
    values = np.random.default_rng(0).normal(30, 20, (4, 3, 64, 64)).astype("float16")
    contexts = [mx.cpu(0), mx.cpu(1)]

    def run(dtype):
        norm = SyncBatchNorm(in_channels=3)
        norm.initialize(ctx=contexts)
        norm.cast(dtype)
        parts = [mx.nd.array(values[i::2], ctx=c, dtype=dtype) for i, c in enumerate(contexts)]

        def forward(part):
            with autograd.record():
                return norm(part)

        outputs = Turns(2).run([lambda part=part: forward(part) for part in parts])
        assert all(output.dtype == np.dtype(dtype) for output in outputs)
        running = norm.running_mean.data(contexts[0]), norm.running_var.data(contexts[0])
        return [array.asnumpy().astype("float32") for array in (*outputs, *running)]

    for half, full in zip(run("float16"), run("float32")):
        assert half == pytest.approx(full, rel=2e-3, abs=2e-3)
