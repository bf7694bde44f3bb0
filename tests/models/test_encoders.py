"""GluonCV's classifiers as encoders, and their weights."""

import mxnet as mx
import numpy as np
import pytest
from conftest import run
from gluoncv import model_zoo
from gluoncv.utils import export_block

from segtrain import models
from segtrain.config import Model, parse
from segtrain.data.loader import Batch
from segtrain.errors import UserError
from segtrain.training.learner import Learner

SMALL = [8, 8, 8, 8, 8, 8]


def make(name="unet", encoder="resnet18_v1b", contexts=None, **options):
    model = Model(name=name, **{"widths": SMALL, "encoder": encoder, **options})
    net = models.network(model, 3)
    models.initialize(net, model, contexts or [mx.cpu()], seed=1)
    return net, model


def pixels(shape, seed=0):
    return mx.nd.array(np.random.default_rng(seed).integers(0, 256, shape), dtype="uint8")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """A ResNet-18 with weights, and its two kinds of file."""
    home = tmp_path_factory.mktemp("classifier")
    net = model_zoo.get_model("resnet18_v1b")
    mx.random.seed(9)
    net.initialize(mx.init.Xavier())
    net(mx.nd.zeros((1, 3, 64, 64)))
    net.save_parameters(str(home / "saved.params"))
    export_block(str(home / "exported"), net, preprocess=False, layout="CHW", data_shape=(3, 64, 64))
    return net, home


@pytest.mark.parametrize(
    "encoder",
    ["resnet18_v1b", "resnest14", "mobilenet0.25", "mobilenetv3_small", "densenet121", "vgg11_bn"],
)
def test_each_family_is_an_encoder(encoder, tmp_path):
    net, _ = make(encoder=encoder)
    x = pixels((1, 3, 70, 41))
    eager = net(x)
    assert net.stride == 32 and eager.shape == (1, 3, 70, 41)
    net.hybridize(static_alloc=True, static_shape=True)
    assert (net(x) == eager).min().asscalar() == 1
    net.export(str(tmp_path / "net"))
    symbol, params = str(tmp_path / "net-symbol.json"), str(tmp_path / "net-0000.params")
    loaded = mx.gluon.SymbolBlock.imports(symbol, ["data"], params)
    assert (loaded(x) == eager).min().asscalar() == 1


@pytest.mark.parametrize("name", ["unet", "unetpp", "gridunet"])
def test_each_network_takes_one(name):
    net, _ = make(name)
    largest = {k: 0.0 for k, p in net._collect_params_with_prefix().items() if p.grad_req != "null"}
    with mx.autograd.record():
        loss = (net(pixels((2, 3, 64, 64))) ** 2).sum()
    loss.backward()
    for key in largest:
        largest[key] = np.abs(net._collect_params_with_prefix()[key].grad().asnumpy()).max()
    assert not [k for k, value in largest.items() if value == 0 and not k.endswith("bias")]


def test_names_and_weights_depend_on_nothing_else_in_the_process():
    first, _ = make()
    model_zoo.get_model("resnet18_v1b")
    second, _ = make(contexts=[mx.cpu(0), mx.cpu(1)])
    assert list(first.collect_params()) == list(second.collect_params())
    x = pixels((1, 3, 64, 64))
    other = second(x.as_in_context(mx.cpu(1))).as_in_context(mx.cpu(0))
    assert (first(x) == other).min().asscalar() == 1


def test_streams_are_the_classifiers_own_features(classifier):
    source, home = classifier
    net, model = make(encoder_params=str(home / "saved.params"))
    said = models.load_encoder(net, model)
    assert "100 of 100 loaded" in said and "skipped fc.weight, fc.bias" in said
    x = pixels((1, 3, 64, 96))
    normal, features = net.taps(x, ["heads.0", "features"])
    y = source.relu(source.bn1(source.conv1(normal)))
    expected = [y]
    y = source.maxpool(y)
    for stage in (source.layer1, source.layer2, source.layer3, source.layer4):
        y = stage(y)
        expected.append(y)
    for ours, theirs in zip(features, expected):
        assert np.allclose(ours.asnumpy(), theirs.asnumpy(), atol=1e-5)


def test_an_exported_file_fits_as_well(classifier):
    source, home = classifier
    net, model = make(encoder_params=str(home / "exported-0000.params"))
    assert "100 of 100 loaded" in models.load_encoder(net, model)
    ours = models.encoder(net)[1]["layer3.0.conv1.weight"].data()
    assert (ours == source.layer3[0].conv1.weight.data()).min().asscalar() == 1


def test_a_file_that_does_not_fit_says_how_and_sets_nothing(classifier):
    _, home = classifier
    net, model = make(encoder="resnet34_v1b", encoder_params=str(home / "saved.params"))
    before = {k: p.data().copy() for k, p in models.encoder(net)[1].items()}
    with pytest.raises(UserError) as error:
        models.load_encoder(net, model)
    for part in ("100 of 180 would be", "skipped fc.weight, fc.bias", "missing layer1.2.conv1.weight"):
        assert part in str(error.value)
    for key, parameter in models.encoder(net)[1].items():
        assert (parameter.data() == before[key]).min().asscalar() == 1
    net, model = make(in_channels=4, encoder_params=str(home / "saved.params"))
    with pytest.raises(
        UserError, match=r"conv1.weight is \(64, 3, 7, 7\) and should be \(64, 4, 7, 7\)"
    ):
        models.load_encoder(net, model)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"encoder": "resnet18b"}, "did you mean resnet18_v1b"),
        ({"encoder": "squeezenet1.0"}, "no feature of 1/2"),
        ({"dim": 1}, "is for images"),
        ({"widths": [8]}, "2 to 6 streams"),
        ({"padding": "valid"}, "no other encoder"),
        ({"encoder": None, "encoder_params": "x.params"}, "set model.encoder"),
        ({"encoder_params": "nowhere.params"}, "nowhere.params: No such file"),
        ({"encoder_params": __file__}, "no .params file"),
        ({"encoder": "resnest14", "encoder_params": "pretrained"}, "give a .params file"),
    ],
)
def test_wrong_encoders_are_named(options, says, monkeypatch, tmp_path):
    monkeypatch.setenv("MXNET_HOME", str(tmp_path))
    with pytest.raises(UserError) as error:
        models.load_encoder(*make(**options))
    assert says in str(error.value)


class Truth:
    classes = ["a", "b", "c"]
    ignore = 255
    ids = ["0", "1"]


def test_the_encoder_is_frozen_and_then_learns_at_its_own_rate():
    config = parse(
        {
            "model": {"encoder": "resnet18_v1b", "widths": SMALL},
            "data": {"crop": [32, 32]},
            "train": {"freeze_encoder_epochs": 1, "encoder_lr": 0.5, "weight_decay": 0.01},
        }
    )
    learner = Learner(config, Truth, np.ones(3), [mx.cpu()], 10)
    images = pixels((2, 3, 32, 32)).asnumpy()
    batch = Batch(images, images[:, 0] % 3, [0, 1])
    encoder = {id(p) for p in models.encoder(learner.net)[1].values()}

    def moved(epoch):
        before = {id(p): p.data().copy() for p in learner._trainable}
        learner.begin(epoch)
        learner.step(batch, epoch)
        return {
            i for i, p in ((id(p), p) for p in learner._trainable) if (p.data() != before[i]).sum() > 0
        }

    first, second = moved(0), moved(1)
    assert first and not first & encoder
    assert second & encoder
    assert {p.lr_mult for p in learner._encoder} == {0.5}


@pytest.mark.parametrize("key", ["encoder_lr", "freeze_encoder_epochs"])
def test_settings_of_an_encoder_that_is_not_there(key):
    config = parse({"model": {"widths": [8, 8]}, "data": {"crop": [32, 32]}, "train": {key: 2}})
    with pytest.raises(UserError, match=f"train.{key}: model unet has none"):
        Learner(config, Truth, np.ones(3), [mx.cpu()], 10)


def test_a_run_needs_the_file_only_at_its_start(classifier, config_file, tmp_path):
    weights = tmp_path / "weights.params"
    weights.write_bytes((classifier[1] / "saved.params").read_bytes())
    model = f"model={{name: unet, encoder: resnet18_v1b, widths: [8, 8], encoder_params: {weights}}}"
    out = tmp_path / "run"
    code, text = run("train", config_file, model, "train.epochs=1", "--out", out)
    assert code == 0, text
    assert "5 of 5 loaded" in (out / "log.txt").read_text()
    weights.unlink()
    assert run("train", out / "config.yaml", "--out", out, "--resume")[0] == 0
    assert run("eval", out)[0] == 0


def test_averaged_weights_begin_with_those_of_the_encoder(classifier):
    model = {"name": "unet", "encoder": "resnet18_v1b", "widths": [8, 8]}
    model["encoder_params"] = str(classifier[1] / "saved.params")
    config = parse({"model": model, "data": {"crop": [32, 32]}, "train": {"ema": 0.999}})
    learner = Learner(config, Truth, np.ones(3), [mx.cpu()], 10)
    learner.load_encoder()
    before = {n: p.data().asnumpy() for n, p in learner.net.collect_params().items()}
    with learner.judged():
        for name, parameter in learner.net.collect_params().items():
            assert np.array_equal(parameter.data().asnumpy(), before[name]), name
