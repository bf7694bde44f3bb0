import mxnet as mx
import pytest
from mxnet.gluon import nn

from segtrain.layers import Chain, Concat, Each, From, Sum, Take


def ready(chain, shape=(2, 3, 8, 8)):
    chain.initialize(mx.init.Xavier())
    return chain(mx.nd.random.uniform(shape=shape))


def test_without_names_it_is_a_hybrid_sequential():
    plain, chain = nn.HybridSequential(), Chain()
    for net in (plain, chain):
        net.add(nn.Conv2D(4, 3), nn.Activation("relu"), nn.Conv2D(2, 1))
    x = mx.nd.random.uniform(shape=(1, 3, 8, 8))
    chain.initialize()
    chain(x)
    plain.initialize()
    plain(x)
    source, target = chain._collect_params_with_prefix(), plain._collect_params_with_prefix()
    assert list(source) == list(target)
    for name, parameter in target.items():
        parameter.set_data(source[name].data())
    assert (chain(x) == plain(x)).min().asscalar() == 1


def test_an_empty_chain_is_the_identity():
    x = mx.nd.arange(6)
    assert (Chain()(x) == x).min().asscalar() == 1


def test_concat_and_sum_read_taps_through_a_block():
    double = nn.HybridLambda(lambda F, x: x * 2)
    chain = Chain(("a", Chain()), nn.HybridLambda(lambda F, x: x + 1), Concat("a", through=double))
    x = mx.nd.ones((1, 1, 2, 2))
    assert chain(x).asnumpy()[0, :, 0, 0].tolist() == [2, 2]
    chain = Chain(("a", Chain()), ("b", nn.HybridLambda(lambda F, x: x + 1)), Sum("a", "b"))
    assert chain(x).asnumpy().ravel().tolist() == [5] * 4


def test_from_starts_a_path_anew():
    chain = Chain(("a", Chain()), nn.HybridLambda(lambda F, x: x * 100), From("a"))
    x = mx.nd.ones((1, 1, 2, 2))
    assert chain(x).sum().asscalar() == 4


def test_streams_go_in_and_out_as_lists():
    chain = Chain(takes=["a", "b"], gives=["c", "d"])
    chain.add(Sum("a"), name="c")
    chain.add(From("b", through=nn.HybridLambda(lambda F, x: x * 10)), name="d")
    c, d = chain([mx.nd.ones(1), mx.nd.ones(1) * 2])
    assert (c.asscalar(), d.asscalar()) == (3, 20)
    assert Chain(chain, Take(1))([mx.nd.ones(1), mx.nd.ones(1) * 2]).asscalar() == 20


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: Chain(("a", Chain()), ("a", Chain())), "'a' is taken; there are a"),
        (lambda: Chain(("a", Chain()), Concat("b")), "reads 'b', which isn't there yet; there are a"),
        (lambda: Chain(Sum("later"), ("later", Chain())), "there are no names"),
        (lambda: Chain(("a b", Chain())), "can't name a block"),
        (lambda: Chain(("0", Chain())), "can't name a block"),
        (lambda: Concat(), "needs the name"),
        (lambda: Concat("a", "b", through=Chain()), "2 names were given"),
        (lambda: ready(Chain(Chain(), gives=["z"])), "gives ['z']"),
        (lambda: ready(Each(Chain()), shape=(2, 2)), "1 blocks for 2 streams"),
    ],
)
def test_wiring_errors_say_what_there_is(build, says):
    with pytest.raises(ValueError) as error:
        build()
    assert says in str(error.value)


def test_adding_many_blocks_takes_no_name():
    with pytest.raises(ValueError, match="for one block"):
        Chain().add(Chain(), Chain(), name="a")


def add(number):
    return nn.HybridLambda(lambda F, x: x + number)


@pytest.mark.parametrize("hybrid", [False, True])
def test_taps_give_named_values_however_deep(hybrid):
    inner = Chain(("b", add(10)), add(100), gives=["b"])
    net = Chain(("a", add(1)), ("in", inner), Take(0))
    if hybrid:
        net.hybridize(static_alloc=True, static_shape=True)
        net(mx.nd.zeros((1, 1)))
    values = net.taps(mx.nd.zeros((1, 1)), ["b", "a", "in.1"])
    assert [v.asscalar() for v in values] == [11, 1, 111]
    assert net.taps(mx.nd.zeros((1, 1)), ["a"])[0].asscalar() == 1
    assert net.taps(mx.nd.zeros((1, 1)), ["in"])[0][0].asscalar() == 11


def test_taps_of_a_chain_that_takes_streams():
    chain = Chain(("c", Sum("x")), takes=["x", "y"])
    assert chain.taps([mx.nd.ones(1), mx.nd.ones(1) * 2], ["c"])[0].asscalar() == 3


def test_taps_carry_gradients():
    net = Chain(("a", nn.Dense(1, in_units=1)), nn.Dense(1, in_units=1))
    net.initialize()
    with mx.autograd.record():
        loss = net.taps(mx.nd.ones((1, 1)), ["a"])[0].sum()
    loss.backward()
    assert net.block("a").weight.grad().asscalar() == 1


def test_a_wrong_tap_says_what_there_is():
    net = Chain(("a", Chain(("deep", Chain()))), ("b", Chain(("deep", Chain()))))
    with pytest.raises(ValueError, match="no block 'z'; named ones are a, a.deep, b, b.deep"):
        net.taps(mx.nd.ones(1), ["z"])
    with pytest.raises(ValueError, match="several blocks: a.deep, b.deep"):
        net.taps(mx.nd.ones(1), ["deep"])
    assert net.taps(mx.nd.ones(1), ["b.deep"])[0].asscalar() == 1


def test_a_cut_tap_gives_its_readers_zeros():
    chain = Chain(("a", add(1)), add(10), Concat("a"))
    with chain.cut("a"):
        assert chain(mx.nd.zeros((1, 1))).asnumpy().tolist() == [[11, 0]]
    assert chain(mx.nd.zeros((1, 1))).asnumpy().tolist() == [[11, 1]]
    with pytest.raises(ValueError, match="no 'q' to cut; there are a"), chain.cut("q"):
        pass
