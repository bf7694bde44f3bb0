"""ONNX, int8 and float16: proved, refused under their bar, run in each runtime, and scored."""

import json
import pickle
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import mxnet as mx
import numpy as np
import pytest
from conftest import run

from segtrain import config, models
from segtrain.data import shapes
from segtrain.data.files import read_mask
from segtrain.errors import UserError
from segtrain.export import card, fold, network, portable
from segtrain.export.bundle import OPERATORS, check_network
from segtrain.export.network import Source
from segtrain.models.zoo import names as zoo_names

onnx = pytest.importorskip("onnx", reason="pip install 'segtrain[onnx]'")
ort = pytest.importorskip("onnxruntime", reason="pip install 'segtrain[onnx]'")
PICKLED = pickle.dumps({"weight": [1.0, 2.0]})
NETWORKS = Path(__file__).parents[2] / "configs/networks"


def source_of(model, classes, side=None):
    net = models.network(model, classes)
    models.initialize(net, model, [mx.cpu()], seed=0)
    shape = (1, model.in_channels, *[net.side or 2 * net.stride] * model.dim)
    net(mx.nd.zeros(shape, dtype="uint8"))
    return net, Source(
        network.of(SimpleNamespace(net=net)), SimpleNamespace(side=net.side), shape, "uint8"
    )


# ---- what MXNet's exporter can't take, and that segtrain's rewriting of it is right

EVERY = {"broadcast_maximum"}  # of the mirrored margin that lets a network take any size
TABLE = {
    "gridnet-niklaus": EVERY,  # and slopes per channel, which it exports along the wrong axis
    "phasenet": EVERY,
    "resnet1d": set(),
    "segnet-camvid": EVERY | {"_equal"},
    "utime": EVERY,
}


def no_converter(symbol):
    from mxnet.onnx.mx2onnx._export_onnx import MXNetGraph

    from segtrain.formats.onnx import _taken

    used = portable.operators(symbol)
    assert used <= OPERATORS
    return used - _taken(MXNetGraph)


@pytest.mark.parametrize("file", sorted(NETWORKS.glob("*.yaml")), ids=lambda file: file.stem)
def test_each_network_of_configs_and_what_mxnets_exporter_cannot_take(file, tmp_path):
    model = config.load(file).model
    net, source = source_of(model, model.classes)
    assert no_converter(source.network.symbol) == TABLE.get(file.stem, EVERY)
    agrees(net, source, model, tmp_path, ties=file.stem == "segnet-camvid")


ZOO = {
    "danet_resnet50": set(),
    "deeplab_resnet50": set(),
    "deeplabplus_xception": set(),
    "deeplabv3bplus_wideresnet": set(),
    "fastscnn": set(),
    "fcn_resnet50": set(),
    "hrnet_w18_small_v1": EVERY,
    "icnet_resnet50": set(),
    "psp_resnet50": set(),
}
LARGE = ("deeplabv3bplus_wideresnet",)  # 548 MB, and as much again for each step of the way


def zoo(name):
    return config.parse({"model": {"classes": 5, "name": "zoo", "network": name, "crop_size": 64}}).model


@pytest.mark.parametrize("name", sorted(ZOO))
def test_a_table_of_what_mxnets_exporter_cannot_take_of_gluoncvs_networks(name):
    assert {n.partition("_")[0] for n in zoo_names()} == {n.partition("_")[0] for n in ZOO}
    assert no_converter(models.network(zoo(name), 5)(mx.sym.var("data"))) == ZOO[name]


@pytest.mark.parametrize("name", sorted(set(ZOO) - set(LARGE)))
def test_each_family_of_gluoncv_as_mxnet_and_onnx(name, tmp_path):
    """With its batch norms folded, as both formats have them."""
    net, source = source_of(zoo(name), 5)
    symbol, arrays, folded = fold.batch_norms(*source.network)
    assert folded > 0
    source = source._replace(network=network.Network(symbol, arrays))
    saved = source.network.save(tmp_path, "model", dtype="uint8")
    check_network(tmp_path, saved["files"])
    x = mx.nd.array(np.random.default_rng(0).integers(0, 256, source.shape), dtype="uint8")
    wanted, found = net(x).asnumpy(), source.network.block()(x).asnumpy()
    assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()
    agrees(net, source, zoo(name), tmp_path)


SMALL = {
    "unet-deconv": {"name": "unet", "widths": [8, 16, 24]},
    "unet-bilinear": {"name": "unet", "widths": [8, 16], "up": "bilinear"},
    "unet-nearest-group": {"name": "unet", "widths": [8, 16], "up": "nearest", "norm": "group"},
    "unet-valid": {"name": "unet", "widths": [8, 16], "padding": "valid"},
    "unet-fold": {"name": "unet", "widths": [8, 16], "fold": 2},
    "unet-1d": {"name": "unet", "widths": [8, 16], "dim": 1, "skip": "residual"},
    "unetpp": {"name": "unetpp", "widths": [8, 16, 24]},
    "attention": {"name": "attention_unet", "widths": [8, 16, 24]},
    "gridnet": {"name": "gridnet", "widths": [4, 6], "down_columns": 1, "up_columns": 1},
    "niklaus": {"name": "gridnet_niklaus", "widths": [4, 6, 8]},
    "fcdensenet-of-many-norms": {"name": "fcdensenet", "growth": 4, "layers": [4, 4, 4, 4, 4]},
    "segnet": {"name": "segnet", "widths": [8, 16], "units": [1, 2]},
    "multiresunet": {"name": "multiresunet", "widths": [8, 16, 24], "paths": [2, 1]},
    "resnet1d": {"name": "resnet1d", "dim": 1, "widths": [8, 16], "kernels": [4, 3], "whole": True},
    "phasenet": {"name": "phasenet", "dim": 1, "widths": [8, 16]},
    "utime": {"name": "utime", "dim": 1, "widths": [8, 16], "pools": [4], "segment": 8},
}


@pytest.mark.parametrize("name", sorted(SMALL))
def test_onnx_gives_the_same_scores_at_any_batch_and_size(name, tmp_path):
    model = config.parse({"model": {"classes": 5, **SMALL[name]}, **one_d(SMALL[name])}).model
    agrees(*source_of(model, 5), model, tmp_path)


def agrees(net, source, model, folder, ties=False):
    """The ONNX file against the network: batches of 1 and 4, of sides that its stride doesn't divide.

    ties: where unpooling goes by which of four values is the largest, and the mirrored margin makes
    some of them equal, rounding decides: some pixels may differ.
    """
    from segtrain.formats import onnx as form

    entry = form.build(source, folder)
    form.check(folder, entry["files"])
    loaded = onnx.load(str(folder / "model.onnx"))
    assert entry["opset"] == 13 == loaded.opset_import[0].version and loaded.ir_version == 7
    assert [value.name for value in loaded.graph.input] == ["data"]
    assert [value.name for value in loaded.graph.output] == ["scores"]
    session = ort.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    for batch, sides in ((1, (37, 50)), (4, (16, 9))):
        sides = [net.side] * 2 if net.side else sides[: model.dim]
        x = np.random.default_rng(0).integers(0, 256, (batch, model.in_channels, *sides), np.uint8)
        wanted = net(mx.nd.array(x, dtype="uint8")).asnumpy()
        found = session.run(None, {"data": x})[0]
        assert found.shape == wanted.shape
        difference = np.abs(found - wanted) / np.abs(wanted).max()
        assert np.quantile(difference, 0.75) <= 3e-5 if ties else difference.max() <= 3e-5


def one_d(options):
    return {"data": {"name": "signals"}} if options.get("dim") == 1 else {}


def test_what_cannot_be_taken_is_named_in_one_line(tmp_path):
    from segtrain.formats import onnx as form

    data = mx.sym.var("data")
    sorted_symbol = mx.sym.sort(mx.sym.cast(data, "float32"), axis=1)
    source = Source(
        network.Network(sorted_symbol, {}), SimpleNamespace(side=None), (1, 3, 8, 8), "uint8"
    )
    with pytest.raises(UserError, match="MXNet's exporter doesn't take sort"):
        form.build(source, tmp_path)


def of_triton(config):
    """Input and output of a config.pbtxt as Triton sees them: name, type, and the shape with a batch."""
    assert (
        "max_batch_size: 8\n" in config
    )  # "For models with max_batch_size > 0, the full shape is [-1] + dims"
    pattern = r'(input|output) \[\{ name: "(\w+)" data_type: TYPE_(\w+) dims: \[([-\d, ]+)\] \}\]'
    found = re.findall(pattern, config)
    return {kind: (name, dtype, [-1, *map(int, dims.split(","))]) for kind, name, dtype, dims in found}


def of_onnx(path):
    graph = onnx.load(str(path)).graph
    names = {onnx.TensorProto.UINT8: "UINT8", onnx.TensorProto.FLOAT: "FP32"}

    def described(value):
        tensor = value.type.tensor_type
        shape = [-1 if dim.dim_param else dim.dim_value for dim in tensor.shape.dim]
        return value.name, names[tensor.elem_type], shape

    (given,), (made,) = graph.input, graph.output
    return {"input": described(given), "output": described(made)}


def test_tritons_config_is_that_of_the_onnx_file(home, tmp_path):
    """For a network of any size, and for one of a single size: there Triton refuses -1."""
    from segtrain.formats import onnx as form

    about = json.loads((home / "bundle/model.json").read_text())
    text = (home / "bundle/README.md").read_text()
    wanted = {"input": ("data", "UINT8", [-1, 3, -1, -1]), "output": ("scores", "FP32", [-1, 4, -1, -1])}
    assert of_triton(text) == of_onnx(home / "bundle/model.onnx") == wanted
    form.build(source_of(zoo("fastscnn"), 5)[1], tmp_path)
    text = card.text({**about, "side": 64, "classes": list("abcde")})
    found = of_triton(text)
    assert found == of_onnx(tmp_path / "model.onnx") and found["output"][2] == [-1, 5, 64, 64]


def test_tritons_config_without_onnx_is_for_its_python_backend(home):
    about = json.loads((home / "bundle/model.json").read_text())
    about["formats"] = {"mxnet": about["formats"]["mxnet"]}
    text = card.text(about)
    assert 'backend: "python"' in text and "class TritonPythonModel" in text
    assert of_triton(text) == of_onnx(home / "bundle/model.onnx")


# ---- whole bundles


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("formats")
    (home / "c.yaml").write_text(
        """
model: {name: unet, widths: [8, 16, 32], units: 1}
data: {name: shapes, size: [64, 96], train: 48, val: 4, crop: [64, 64], workers: 0}
train: {epochs: 3, batch: 4, lr: 0.01, optimizer: adam}
"""
    )
    forms = [word for form in ("onnx", "int8", "float16") for word in ("--format", form)]
    for arguments in (
        ("train", home / "c.yaml", "--out", home / "run"),
        ("export", home / "run", "--out", home / "bundle", *forms),
    ):
        code, text = run(*arguments)
        assert code == 0, text
    image, _ = shapes.build("test", size=(101, 67)).read(0)
    (home / "images").mkdir()
    cv2.imwrite(str(home / "images/a.png"), image[..., ::-1])
    return home


def test_each_format_is_proved(home):
    proof = json.loads((home / "bundle/parity.json").read_text())["formats"]
    assert list(proof) == ["mxnet", "onnx", "int8", "float16"]
    for name, found in proof.items():
        assert found["passed"] and found["miou_of_run"] > 0 and found["bar"]
        assert abs(found["miou"] - found["miou_of_run"]) <= 0.01
        assert len(found["images"]) == 3 and found["images"][1]["pixels"] == 333 * 517
        assert found["equal_argmax"] >= (0.95 if name == "int8" else 0.999)
    assert proof["mxnet"]["differing_pixels"] == 0
    assert 0 < proof["onnx"]["max_abs_difference"] < proof["float16"]["max_abs_difference"]
    assert "rounded to float16" in proof["float16"]["computed"]
    formats = json.loads((home / "bundle/model.json").read_text())["formats"]
    assert formats["int8"]["calibrated_on"] == "32 of 48 training images"
    assert formats["onnx"]["opset"] == 13 and formats["float16"]["device"] == "gpu"
    assert formats["float16"]["bytes"] < 0.8 * formats["mxnet"]["bytes"]
    for name, found in proof.items():
        files = formats[name]["files"]
        assert found["bytes"] == sum((home / "bundle" / file).stat().st_size for file in files)
        speeds = found["images_per_second"]
        assert all(speed > 0 for speed in speeds.values()) and found["measured_on"] == [3, 256, 256]
        assert bool(speeds) == (name != "float16") and set(speeds) <= set(formats[name]["runtimes"])
    assert "and its\nfile no smaller" in (home / "bundle/README.md").read_text()


def test_the_whole_bundle_checks_out(home):
    code, text = run("export", "--check", home / "bundle")
    assert code == 0 and "mxnet, onnx, int8, float16" in text, text
    for name in ("int8", "float16"):
        check_network(home / "bundle", [f"{name}-symbol.json", f"{name}-0000.params"])


def test_int8_convolutions_are_quantised(home):
    nodes = json.loads((home / "bundle/int8-symbol.json").read_text())["nodes"]
    operators = [node["op"] for node in nodes]
    assert operators.count("_sg_mkldnn_conv") == 8 and "Deconvolution" not in operators


@pytest.mark.parametrize(
    ("options", "share"),
    [
        ((), 1),
        (("--format", "onnx"), 0.9999),
        (("--runtime", "onnxruntime"), 0.9999),
        (("--format", "int8"), 0.9),
        (("--runtime", "openvino"), 0.9999),
        (("--runtime", "openvino-bf16"), 0.9),
    ],
)
def test_predict_in_each_runtime(home, tmp_path, options, share):
    if "openvino" in str(options):
        pytest.importorskip("openvino", reason="pip install 'segtrain[openvino]'")
    for model, out in (("run", "of-run"), ("bundle", "of-bundle")):
        more = options if model == "bundle" else ()
        code, text = run("predict", home / model, home / "images", "--out", tmp_path / out, *more)
        assert code == 0, text
    of_run, of_bundle = (read_mask(tmp_path / out / "a.png") for out in ("of-run", "of-bundle"))
    assert (of_run == of_bundle).mean() >= min(share, 0.9999)


@pytest.mark.parametrize(
    ("model", "options", "says"),
    [
        ("bundle", ("--format", "float16"), "runs on a GPU alone"),
        ("bundle", ("--format", "onx"), "has no format onx; it has mxnet, onnx, int8, float16"),
        ("bundle", ("--format", "int8", "--runtime", "openvino"), "int8 runs in mxnet, not in openvino"),
        ("bundle", ("--runtime", "tensorrt"), "holds nothing for tensorrt"),
        ("run", ("--runtime", "openvino"), "are for bundles"),
    ],
)
def test_what_does_not_go_together(home, tmp_path, model, options, says):
    code, text = run("predict", home / model, home / "images", "--out", tmp_path / "o", *options)
    assert code == 2 and says in text, text


@pytest.mark.parametrize("options", [(), ("--format", "int8"), ("--runtime", "onnxruntime")])
def test_eval_of_a_bundle(home, options):
    code, text = run("eval", home / "bundle", "--config", home / "c.yaml", "--json", "-", *options)
    assert code == 0, text
    result = json.loads(text[text.index("{\n") :])
    code, text = run("eval", home / "run", "--json", "-")
    assert abs(result["miou"] - json.loads(text[text.index("{\n") :])["miou"]) <= 0.01


def test_eval_of_a_bundle_wants_a_config(home):
    code, text = run("eval", home / "bundle")
    assert code == 2 and "--config" in text


def test_the_formats_side_by_side(home):
    options = ("--size", "32x48", "--batch", "1,2", "--rounds", 2, "--run", home / "run")
    code, text = run("bench", home / "bundle", *options, "--json", "-")
    assert code == 0, text
    assert "images/s" in text and "100.000%" in text  # whole, in the 80 columns of no terminal
    result = json.loads(text[text.index("{\n") :])
    assert {"mxnet", "onnx", "int8", "the run"} == {row["format"] for row in result["rows"]}
    assert {row["batch"] for row in result["rows"]} == {1, 2}
    for row in result["rows"]:
        assert row["images_per_second"] > 0
        assert row["latency_ms"]["p50"] <= row["latency_ms"]["p90"] <= row["latency_ms"]["p99"]
    assert result["rows"][0]["speedup"] == 1 and result["rows"][1]["equal_argmax"] == 1
    assert "float16/mxnet" in result["left_out"] and result["input"]["shape"] == [3, 32, 48]
    code, text = run("bench", home / "run")
    assert code == 2 and "is no bundle" in text


@pytest.mark.parametrize("name", ["onnx", "int8"])
def test_under_its_bar_nothing_is_written(home, monkeypatch, name):
    """With the classes of the head in the reverse order, in this format alone."""
    from segtrain import plugins

    module = plugins.find("formats", name)
    build = module.build

    def doctored(source, folder):
        arrays = {n: a[::-1] if len(a) == 4 else a for n, a in source.network.arrays.items()}
        return build(source._replace(network=source.network._replace(arrays=arrays)), folder)

    monkeypatch.setattr(module, "build", doctored)
    code, text = run("export", home / "run", "--out", home / "wrong", "--format", name)
    assert code == 1 and "disagrees" in text and f"in the format {name}" in text, text
    assert not [path for path in home.iterdir() if "wrong" in path.name]


def test_int8_without_training_images_is_refused(home, tmp_path):
    import shutil

    shutil.copytree(home / "run", tmp_path / "run")
    text = (tmp_path / "run/config.yaml").read_text().replace("name: shapes", "name: nowhere")
    (tmp_path / "run/config.yaml").write_text(text)
    code, text = run("export", tmp_path / "run", "--out", tmp_path / "b", "--format", "int8")
    assert code == 2 and "nowhere" in text


def elsewhere():
    """A tensor whose values are in another file."""
    tensor = onnx.numpy_helper.from_array(np.zeros(2, np.float32), "weight")
    onnx.external_data_helper.set_external_data(tensor, location="../../secret")
    tensor.ClearField("raw_data")
    return tensor


def constant(**value):
    return onnx.helper.make_node("Constant", [], ["made"], **value)


def graph_of(node):
    made = onnx.helper.make_tensor_value_info("made", onnx.TensorProto.FLOAT, None)
    return onnx.helper.make_graph([node], "inner", [], [made])


def choice(node):
    """A node inside a graph inside a node."""
    inner = graph_of(node)
    return onnx.helper.make_node("If", ["condition"], ["made"], then_branch=inner, else_branch=inner)


def foreign(op="Load"):
    return onnx.helper.make_node(op, [], ["made"], domain="elsewhere")


@pytest.mark.parametrize(
    "doctor",
    [
        lambda model: model.graph.initializer.append(elsewhere()),
        lambda model: model.graph.node.insert(0, constant(value=elsewhere())),
        lambda model: model.graph.node.insert(0, choice(constant(value=elsewhere()))),
        lambda model: model.graph.node.insert(0, foreign()),
        lambda model: model.graph.node.insert(0, choice(foreign())),
        lambda model: model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1)),
        lambda model: model.functions.append(
            onnx.helper.make_function("elsewhere", "Load", [], ["made"], [foreign()], model.opset_import)
        ),
    ],
)
def test_an_onnx_file_with_what_is_not_its_own_is_refused(home, tmp_path, monkeypatch, doctor):
    """However deep, and without the help of ONNX's own checker."""
    from segtrain.errors import SegtrainError
    from segtrain.formats import onnx as form

    model = onnx.load(str(home / "bundle/model.onnx"))
    doctor(model)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    (tmp_path / "secret").write_text("x")
    monkeypatch.setattr(onnx.checker, "check_model", lambda model: None)
    with pytest.raises(SegtrainError, match="reads other files|aren't ONNX's own"):
        form.check(tmp_path, ["model.onnx"])


@pytest.mark.parametrize("content", [b"", b"x" * 99, PICKLED])
def test_what_is_no_onnx_file_is_refused(tmp_path, content):
    from segtrain.errors import SegtrainError
    from segtrain.formats import onnx as form

    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(SegtrainError, match="is no ONNX model"):
        form.check(tmp_path, ["model.onnx"])


def test_without_onnx_one_line_says_what_to_install(home, tmp_path):
    code = "import sys; sys.modules['onnx'] = None\nfrom segtrain.cli import app; app(sys.argv[1:])"
    command = [sys.executable, "-c", code, "export", home / "run", "--out", tmp_path / "b"]
    done = subprocess.run(
        [*map(str, command), "--format", "onnx"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and "pip install 'segtrain[onnx]'" in done.stderr
