"""One test of every model: whatever is added to segtrain/models is held to this."""

import inspect
import warnings
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest

from segtrain import models, plugins
from segtrain.config import Data, Model, load
from segtrain.errors import UserError
from segtrain.graph import describe

NAMES = plugins.names("models")
SMALL = {
    "fcdensenet": {"growth": 4, "layers": [2, 2, 2, 1, 2], "stem": 8},
    "multiresunet": {"widths": [8, 16, 24], "paths": [2, 1]},
    "phasenet": {"widths": [8, 16], "stride": 4},
    "segnet": {"widths": [8, 16], "units": [1, 2]},
}


def make(name, **options):
    model = Model(name=name, **{**SMALL.get(name, {"widths": [8, 16, 24]}), **options})
    net = models.network(model, 5)
    models.initialize(net, model, [mx.cpu()], seed=3)
    return net, model


def pixels(shape, seed=0):
    return mx.nd.array(np.random.default_rng(seed).integers(0, 256, shape), dtype="uint8")


def test_the_three_are_there():
    assert {"unet", "gridnet", "gridunet"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_eager_hybridized_and_exported_agree_bit_for_bit(name, dim, norm, tmp_path):
    net, _ = make(name, dim=dim, norm=norm)
    x = pixels((2, 3, 16, 24)[: dim + 2])
    eager = net(x)
    assert eager.shape == (2, 5, 16, 24)[: dim + 2]
    net.hybridize(static_alloc=True, static_shape=True)
    hybrid = net(x).copy()
    net.export(str(tmp_path / "net"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        files = (str(tmp_path / f"net-{end}") for end in ("symbol.json", "0000.params"))
        symbol, parameters = files
        loaded = mx.gluon.SymbolBlock.imports(symbol, ["data"], parameters)
    for other in (hybrid, loaded(x)):
        assert (eager == other).min().asscalar() == 1
    for sides in [(24, 8), (17, 31), (1, 5)]:
        x = pixels((1, 3, *sides[:dim]))
        assert net(x).shape == (1, 5, *sides[:dim])
        assert (net(x) == loaded(x)).min().asscalar() == 1


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_gets_a_gradient(name):
    net, _ = make(name)
    # a bias before a batch norm has a gradient of zero but for rounding
    parameters = {k: p for k, p in net._collect_params_with_prefix().items() if not k.endswith("bias")}
    largest = {k: 0.0 for k, p in parameters.items() if p.grad_req != "null"}
    mx.random.seed(0)
    for _ in range(4):  # GridNet drops whole paths at random
        with mx.autograd.record():
            loss = (net(pixels((2, 3, 16, 16))) ** 2).sum()
        loss.backward()
        for key in largest:
            largest[key] = max(largest[key], np.abs(parameters[key].grad().asnumpy()).max())
    assert not [key for key, value in largest.items() if value == 0]


@pytest.mark.parametrize("name", NAMES)
def test_names_depend_on_nothing_else_in_the_process(name):
    first, _ = make(name)
    make("unet")
    second, _ = make(name)
    for names in ("collect_params", "_collect_params_with_prefix"):
        assert list(getattr(first, names)()) == list(getattr(second, names)())
    for a, b in zip(first.collect_params().values(), second.collect_params().values()):
        assert (a.data() == b.data()).min().asscalar() == 1


@pytest.mark.parametrize("name", NAMES)
def test_the_stride_is_found(name):
    net, model = make(name)
    assert net.stride == 4
    net, model = make(name, fold=2)
    assert net.stride == 8
    assert net(pixels((1, 3, 16, 24))).shape == (1, 5, 16, 24)


@pytest.mark.parametrize("name", NAMES)
def test_two_devices_give_what_one_gives(name):
    net, model = make(name)
    twice = models.network(model, 5)
    models.initialize(twice, model, [mx.cpu(0), mx.cpu(1)], seed=3)
    x = pixels((1, 3, 16, 16))
    assert (net(x) == twice(x.as_in_context(mx.cpu(1))).as_in_context(mx.cpu())).min().asscalar() == 1


@pytest.mark.parametrize(("kind", "section"), [("models", Model), ("data", Data)])
def test_no_option_hides_behind_a_key_of_its_section(kind, section):
    for name in plugins.names(kind):
        options = inspect.signature(plugins.find(kind, name).build).parameters
        assert not set(options) & (set(section.model_fields) - {"classes"}), name


@pytest.mark.parametrize("merge", ["concat", "sum"])
@pytest.mark.parametrize("skip", ["identity", "conv", "residual"])
@pytest.mark.parametrize("up", ["deconv", "bilinear", "nearest"])
def test_the_options_of_the_unet_family(merge, skip, up):
    for name in ("unet", "gridunet"):
        net, _ = make(name, merge=merge, skip=skip, skip_depth=2, up=up)
        assert net(pixels((1, 3, 8, 8))).shape == (1, 5, 8, 8)


def test_skips_have_parameters_of_their_own():
    def count(**options):
        net, _ = make("unet", **options)
        return sum(np.prod(p.shape) for p in net.collect_params().values() if p.grad_req != "null")

    plain = count()
    one = 8 * 8 * 9 + 16 + 16 * 16 * 9 + 32  # a 3x3 convolution and its norm on streams 0 and 1
    assert count(skip="conv") == plain + one
    assert count(skip="residual", skip_depth=3) == plain + 3 * 2 * one


NETWORKS = Path(__file__).parents[2] / "configs" / "networks"
PUBLISHED = {
    "unet-2015": 31_030_658,
    "unet-2015-rgb11": 31_032_395,
    "unet-bn": 31_037_698,
    "unet-32": 7_759_521,
    "unet-wide": 9_282_246,
    "unetpp-32": 9_041_601,
    "unetpp-64": 36_629_633,
    "attention-unet": 34_878_573,
    "resunet": 8_220_993,
    "multiresunet": 7_238_228,
    "gridnet-cityscapes": 13_181_097,
    "gridnet-camvid": 13_177_737,
    "gridnet-niklaus": 2_243_936,
    "fcdensenet56": 1_376_795,
    "fcdensenet67": 3_463_243,
    "fcdensenet103": 9_322_091,
    "segnet-camvid": 29_433_483,
    "phasenet": 268_443,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_parameter_counts(name):
    assert describe(load(NETWORKS / f"{name}.yaml"))["parameters"] == PUBLISHED[name]


def test_every_network_of_the_configs_is_counted():
    assert {path.stem for path in NETWORKS.glob("*.yaml")} == set(PUBLISHED)


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ({"name": "unett"}, "did you mean unet"),
        ({"name": "unet", "widht": [8]}, "did you mean widths?"),
        ({"name": "unet", "merge": "cat"}, "'concat' or 'sum'"),
        ({"name": "unet", "widths": "wide"}, "widths"),
        ({"name": "unet", "in_channels": 4}, None),
    ],
)
def test_wrong_options_are_named(model, says):
    if says is None:
        assert models.network(Model(**model), 2) is not None
        return
    with pytest.raises(UserError) as error:
        models.network(Model(**model), 2)
    assert says in str(error.value)
