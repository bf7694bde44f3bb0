"""One test of every model: whatever is added to segtrain/models is held to this."""

import inspect
import warnings
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest
from conftest import run

from segtrain import models, plugins
from segtrain.config import Data, Model, load
from segtrain.errors import UserError
from segtrain.graph.graph import describe, skips
from segtrain.layers import Blocks, Chain, Concat, residual_chain

NAMES = [name for name in plugins.names("models") if name != "zoo"]  # see test_zoo.py
SMALL = {
    "chain": {
        "layers": [
            {"block": "convs", "width": 8, "name": "fine"},
            {"block": "pool"},
            {"block": "pool"},
            {"block": "residual", "width": 16},
            {"block": "up", "width": 8},
            {"block": "up", "width": 8},
            {"block": "concat", "reads": ["fine"]},
            {"block": "head"},
        ]
    },
    "fcdensenet": {"growth": 4, "layers": [2, 2, 2, 1, 2], "stem": 8},
    "multiresunet": {"widths": [8, 16, 24], "paths": [2, 1]},
    "phasenet": {"widths": [8, 16], "stride": 4},
    "resnet1d": {"widths": [8, 16], "kernels": [4, 3]},
    "utime": {"widths": [8, 16, 24], "pools": [2, 2]},
    "segnet": {"widths": [8, 16], "units": [1, 2]},
}
STRIDES = {"resnet1d": 1}


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
    net.save_parameters(str(tmp_path / "saved.params"))
    again, _ = make(name, dim=dim, norm=norm)
    again.initialize(force_reinit=True)
    again.load_parameters(str(tmp_path / "saved.params"))
    for other in (hybrid, loaded(x), again(x)):
        assert (eager == other).min().asscalar() == 1
    for sides in [(24, 8), (17, 31), (1, 5)]:
        x = pixels((1, 3, *sides[:dim]))
        assert net(x).shape == (1, 5, *sides[:dim])
        assert (net(x) == loaded(x)).min().asscalar() == 1


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_a_hybridized_network_learns_what_an_eager_one_does(name, norm):
    """In float64, where an operator that overwrote what its gradient needs couldn't hide."""
    found = []
    for hybridized in (False, True):
        still = {"dropout": 0} if name in ("gridnet", "fcdensenet") else {}
        net, _ = make(name, norm=norm, **still)
        net.cast("float64")
        if hybridized:
            net.hybridize(static_alloc=True, static_shape=True)
        with mx.autograd.record():
            loss = (net(pixels((2, 3, 16, 16))) ** 2).sum()
        loss.backward()
        parameters = net._collect_params_with_prefix()
        found.append({k: p.grad().asnumpy() for k, p in parameters.items() if p.grad_req != "null"})
    eager, hybrid = found
    largest = max(np.abs(gradient).max() for gradient in eager.values())
    for key, gradient in eager.items():
        assert np.abs(hybrid[key] - gradient).max() <= 1e-9 * largest, key


def test_all_that_infer_share_the_memory_of_one_graph():
    net, _ = make("unet")
    x = pixels((1, 3, 16, 16))
    before = net.inference()(x).copy()
    assert net.inference() is net.inference()
    assert (net.inference()(x) == before).min().asscalar() == 1
    assert "_main" not in "".join(net._collect_params_with_prefix())
    chain = next(skip.chain for skip in skips(net, (1, 3, 16, 16)) if skip.name == "s0")
    with chain.cut("s0"):
        net.hybridize()
        assert (net.inference()(x) != before).max().asscalar() == 1
    net.hybridize()
    assert (net.inference()(x) == before).min().asscalar() == 1
    net.cast("float64")
    assert net.inference()(x).dtype == np.float64


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
    assert net.stride == STRIDES.get(name, 4)
    net, model = make(name, fold=2)
    assert net.stride == 2 * STRIDES.get(name, 4)
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


def test_the_sizes_of_the_published_unet():
    """Ronneberger et al. 2015, figure 1: 572 pixels in, 388 out, of which we keep 384."""
    net, _ = make("unet", padding="valid", widths=[2, 2, 2, 2, 2], norm="none", in_channels=1)
    assert net.stride == 16
    values = net.taps(pixels((1, 1, 384, 384)), ["heads.1.0", "e0", "e1", "e2", "e3", "e4", "d3", "d0"])
    assert [v.shape[-1] for v in values[1:]] == [568, 280, 136, 64, 28, 52, 388]


@pytest.mark.parametrize(("streams", "units"), [(1, 1), (2, 1), (3, 2), (4, 3), (5, 2)])
def test_valid_convolutions_keep_the_size(streams, units):
    options = {"widths": [3] * streams, "units": units, "padding": "valid"}
    for dim in (1, 2):
        net, _ = make("unet", dim=dim, **options)
        assert net.stride == 2 ** (streams - 1)
        for sides in [(16, 48), (17, 5)]:
            assert net(pixels((1, 3, *sides[:dim]))).shape == (1, 5, *sides[:dim])


def test_valid_convolutions_see_no_zeros_at_the_border():
    """A constant image has the same scores every stride pixels; zero padding would show."""
    image = mx.nd.full((1, 3, 32, 32), 200, dtype="uint8")
    spread = {}
    for padding in ("same", "valid"):
        net, _ = make("unet", padding=padding)
        scores = net(image).asnumpy()[0].reshape(5, 8, 4, 8, 4)
        spread[padding] = np.ptp(scores, axis=(1, 3)).max() / np.abs(scores).max()
    assert spread["valid"] < 1e-5 < 1e-2 < spread["same"]


def test_one_class_for_the_whole_signal():
    net, _ = make("resnet1d", dim=1, whole=True)
    scores = net(pixels((2, 3, 37))).asnumpy()
    assert np.ptp(scores, axis=2).max() == 0 and np.ptp(scores, axis=0).max() > 0


def test_a_segment_has_one_score():
    net, _ = make("utime", dim=1, segment=6)
    assert net.stride == 12
    scores = net(pixels((1, 3, 30))).asnumpy()[0].reshape(5, 5, 6)
    assert np.ptp(scores, axis=2).max() == 0 and np.ptp(scores, axis=1).max() > 0


def test_deep_supervision_has_a_head_per_column():
    net, _ = make("unetpp", deep_supervision=True)
    x = pixels((2, 3, 16, 16))
    heads = net.heads(x)
    assert [h.shape for h in heads] == [(2, 5, 16, 16)] * 2
    assert (heads[0] == net(x)).min().asscalar() == 1
    config = load(NETWORKS / "unetpp-32.yaml", ["model.deep_supervision=true"])
    assert describe(config)["parameters"] == 9_041_700


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
    "utime": 2_366_591,
    "resnet1d": 504_258,
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
        ({"name": "unet", "widht": [8]}, "did you mean widths"),
        ({"name": "unet", "merge": "cat"}, "'concat' or 'sum'"),
        ({"name": "unet", "widths": "wide"}, "widths"),
        ({"name": "fcdensenet", "dropout": 1}, "model.dropout=1: input should be less than 1"),
        ({"name": "resnet1d", "kernels": []}, "at least 1 item"),
        ({"name": "attention_unet", "widths": [1, 1]}, "value 0 for Parameter num_filter"),
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


LAYERS = """
model:
  name: chain
  classes: 3
  layers:
    - {block: convs, width: 4, name: fine}
    - {block: pool}
    - {block: residual_chain, channels: 8, kernel: 3, chain_length: 3, name: coarse}
    - {block: up, width: 4}
    - block: concat
      reads: [fine]
      through:
        - {block: residual, width: 4, from_width: 4}
    - {block: conv, width: 4}
    - {block: head}
"""


def test_a_network_as_data_is_the_chain_it_describes(tmp_path):
    path = tmp_path / "chain.yaml"
    path.write_text(LAYERS)
    net = models.network(load(path).model, 3)
    blocks = Blocks()
    same = Chain(
        ("fine", blocks.convs(4)),
        blocks.pool(),
        ("coarse", residual_chain(8, 3, chain_length=3, dim=2)),
        blocks.up(4),
        Concat("fine", through=Chain(blocks.residual(4, 4))),
        blocks.conv(4),
        blocks.head(3),
    )
    models.initialize(net, load(path).model, [mx.cpu()], 0)
    same.initialize()
    x = mx.nd.random.uniform(shape=(1, 3, 8, 8))
    same(x)
    ours, theirs = net.block("heads.1")._collect_params_with_prefix(), same._collect_params_with_prefix()
    assert list(ours) == list(theirs)
    for key, parameter in theirs.items():
        parameter.set_data(ours[key].data())
    assert (net.block("heads.1")(x) == same(x)).min().asscalar() == 1
    assert [tap.shape for tap in net.taps(pixels((1, 3, 8, 8)), ["fine", "coarse"])] == [
        (1, 4, 8, 8),
        (1, 8, 4, 4),
    ]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("{block: pool}", "{block: pol}", "chain.yaml:7: no block 'pol'; did you mean pool?"),
        ("width: 4, name", "widht: 4, name", "chain.yaml:6: convs.widht: no such option"),
        ("reads: [fine]", "reads: [fin]", "chain.yaml:10: Concat reads 'fin', which isn't there yet"),
        ("width: 4, from", "width: four, from", "chain.yaml:13: residual.width='four'"),
        ("{block: pool}", "pool", "chain.yaml:6 (layer 2): a layer is a mapping"),
        ("{block: pool}", "{block: conv}", "chain.yaml:7: conv.width is missing: set it"),
        ("name: fine", "name: 3", "chain.yaml:6: 3 can't name a block"),
        ("name: coarse", "name: fine", "chain.yaml:8: the name 'fine' is taken"),
        ("- {block: head}", "", "it must end with a head"),
        ("{block: up, width: 4}", "{block: relu}", "gives scores of its size (Error in operator"),
    ],
)
def test_errors_of_a_network_as_data_name_the_line(old, new, says, tmp_path):
    path = tmp_path / "chain.yaml"
    assert old in LAYERS
    path.write_text(LAYERS.replace(old, new))
    with pytest.raises(UserError) as error:
        models.network(load(path).model, 3)
    assert says in str(error.value)


def test_layers_given_on_the_command_line(config_file):
    layers = "[{block: conv, width: 4}, {block: head}]"
    model = f"model={{name: chain, layers: {layers}}}"
    code, text = run("train", config_file, model, "train.epochs=1", "--out", config_file.parent / "run")
    assert code == 0, text
    assert run("eval", config_file.parent / "run")[0] == 0
