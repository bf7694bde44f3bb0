"""GluonCV's own networks, from training to bundle."""

import json
import re

import mxnet as mx
import numpy as np
import pytest
from conftest import CLASSES, run

from segtrain import models
from segtrain.config import Model, parse
from segtrain.data.loader import Batch
from segtrain.errors import UserError
from segtrain.models import zoo
from segtrain.training.learner import Learner

ONE_OF_EACH = [
    "fcn_resnet50",
    "psp_resnet50",
    "deeplab_resnet50",
    "danet_resnet50",
    "icnet_resnet50",
    "deeplabplus_xception",
    "fastscnn",
    "hrnet_w18_small_v1",
]


def make(network, **options):
    model = Model(name="zoo", network=network, **{"crop_size": 64, **options})
    return models.network(model, 3), model


def pixels(shape):
    return mx.nd.array(np.random.default_rng(0).integers(0, 256, shape), dtype="uint8")


@pytest.mark.parametrize("network", ONE_OF_EACH)
def test_each_family_eager_and_hybridized(network):
    net, model = make(network)
    models.initialize(net, model, [mx.cpu(0), mx.cpu(1)], seed=1)
    x = pixels((1, 3, 64, 64))
    eager = net(x)
    assert eager.shape == (1, 3, 64, 64)
    assert {h.shape for h in net.heads(x)} == {(1, 3, 64, 64)}
    assert (len(net.heads(x)) > 1) == (not network.startswith("hrnet"))
    net.hybridize(static_alloc=True, static_shape=True)
    for context in (mx.cpu(0), mx.cpu(1)):
        other = net(x.as_in_context(context)).as_in_context(mx.cpu(0))
        assert (eager == other).min().asscalar() == 1


def test_hrnets_take_any_size_and_the_others_one():
    net, model = make("hrnet_w18_small_v1")
    models.initialize(net, model, [mx.cpu()], seed=1)
    assert net.side is None and net(pixels((1, 3, 70, 33))).shape == (1, 3, 70, 33)
    assert make("fastscnn")[0].side == 64


class Truth:
    classes = ["a", "b", "c"]
    ignore = 255
    ids = ["0", "1"]


def test_the_auxiliary_weight_has_an_effect():
    """The auxiliary head's own weights move with it, and stay where it is 0."""
    images = pixels((2, 3, 64, 64)).asnumpy()
    batch = Batch(images, images[:, 0] % 3, [0, 1])
    moved, losses = {}, {}
    for weight in (0, 0.4, 0.8):
        config = parse(
            {
                "model": {"name": "zoo", "network": "fastscnn", "crop_size": 64},
                "data": {"crop": [64, 64]},
                "train": {"aux_weight": weight, "weight_decay": 0, "momentum": 0},
            }
        )
        learner = Learner(config, Truth, np.ones(3), [mx.cpu()], 10)
        head = [p for n, p in learner._parameters.items() if re.search("auxlayer.*weight", n)][-1]
        before = head.data().copy()
        learner.step(batch, 0)
        moved[weight] = (head.data() - before).abs().sum().asscalar()
        losses[weight] = learner.losses()[0].losses
    assert moved[0] == 0 < moved[0.4]
    assert moved[0.8] == pytest.approx(2 * moved[0.4], rel=0.01)
    assert losses[0.8]["aux"] == pytest.approx(2 * losses[0.4]["aux"], rel=1e-5)
    assert losses[0.8]["ce"] == pytest.approx(losses[0.4]["ce"])


def test_the_backbone_takes_weights():
    net, model = make("fcn_resnet50")
    name, parameters = models.encoder(net)
    assert name == "resnet50_v1s" and len(parameters) > 250
    assert not any("head" in key or "aux" in key for key in parameters)


def test_an_hrnet_trains_and_exports(tmp_path):
    """Its resizing to the size of another array is in no network of ours."""
    config = parse(
        {
            "model": {"name": "zoo", "network": "hrnet_w18_small_v1"},
            "data": {"crop": [32, 32]},
            "train": {"lr": 0.001},
        }
    )
    learner = Learner(config, Truth, np.ones(3), [mx.cpu()], 10)
    images = pixels((2, 3, 32, 32)).asnumpy()
    for number in range(3):
        learner.step(Batch(images, images[:, 0] % 3, [0, 1]), number)
    first, _, last = learner.losses()
    assert last.loss < first.loss
    learner.wait()
    x = pixels((1, 3, 70, 33))
    expected = learner.net(x)
    learner.net.export(str(tmp_path / "net"))
    symbol, parameters = (str(tmp_path / f"net-{end}") for end in ("symbol.json", "0000.params"))
    loaded = mx.gluon.SymbolBlock.imports(symbol, ["data"], parameters)
    assert expected.shape == (1, 3, 70, 33)
    assert (loaded(x) == expected).min().asscalar() == 1


def test_trains_evaluates_exports(folder, tmp_path):
    config, out, bundle = tmp_path / "zoo.yaml", tmp_path / "run", tmp_path / "bundle"
    config.write_text(
        f"""
model: {{name: zoo, network: fastscnn, crop_size: 32}}
data: {{name: folder, root: {folder}, classes: {CLASSES}, crop: [32, 32], workers: 0}}
train: {{epochs: 1, batch: 3}}
"""
    )
    assert run("train", config, "--out", out)[0] == 0
    code, text = run("eval", out, "--json", tmp_path / "eval.json")
    assert code == 0, text
    assert json.loads((tmp_path / "eval.json").read_text())["policy"]["window"] == 32
    code, text = run("export", out, "--out", bundle)
    assert code == 0, text
    assert json.loads((bundle / "parity.json").read_text())["differing_pixels"] == 0
    masks = [tmp_path / "a", tmp_path / "b"]
    for source, masked in zip((out, bundle), masks):
        assert run("predict", source, folder / "val" / "images", "--out", masked)[0] == 0
    for mask in masks[0].glob("*.png"):
        assert mask.read_bytes() == (masks[1] / mask.name).read_bytes()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"network": "deeplab_resnet5"}, "did you mean deeplab_resnet50"),
        ({"network": "fcn_resnet50", "norm": "group"}, "have batch norm"),
        ({"network": "fcn_resnet50", "in_channels": 4}, "take RGB"),
        ({"network": "fcn_resnet50", "fold": 2}, "take RGB"),
        ({}, "model.network is missing"),
    ],
)
def test_what_the_zoo_cannot_do_is_said(options, says):
    with pytest.raises(UserError) as error:
        models.network(Model(name="zoo", **options), 3)
    assert says in str(error.value)


def test_the_crop_must_be_the_networks():
    config = parse({"model": {"name": "zoo", "network": "fastscnn"}, "data": {"crop": [64, 64]}})
    with pytest.raises(UserError, match=r"sides of 480 alone; write data.crop=\[480, 480\]"):
        Learner(config, Truth, np.ones(3), [mx.cpu()], 10)


def test_every_name_is_one_that_gluoncv_builds():
    """Of each backbone's family the smallest is built above; here the names alone."""
    assert len(zoo.names()) == len(set(zoo.names())) == 27
    assert set(ONE_OF_EACH) <= set(zoo.names())
