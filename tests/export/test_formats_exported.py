"""ONNX, int8 and float16: proved, refused under their bar, run in each runtime, and scored."""

import json
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
from segtrain.export import network, portable
from segtrain.export.bundle import OPERATORS, check_network
from segtrain.export.network import Source

onnx = pytest.importorskip("onnx", reason="pip install 'segtrain[onnx]'")
ort = pytest.importorskip("onnxruntime", reason="pip install 'segtrain[onnx]'")
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


@pytest.mark.parametrize("file", sorted(NETWORKS.glob("*.yaml")), ids=lambda file: file.stem)
def test_a_table_of_what_mxnets_exporter_cannot_take(file):
    from mxnet.onnx.mx2onnx._export_onnx import MXNetGraph

    from segtrain.formats.onnx import _taken

    model = config.load(file).model
    net = models.network(model, model.classes)
    used = portable.operators(net(mx.sym.var("data")))
    assert used - _taken(MXNetGraph) == TABLE.get(file.stem, EVERY)
    assert used <= OPERATORS


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
    "psp": {"name": "zoo", "network": "psp_resnet50", "crop_size": 120},
    "hrnet": {"name": "zoo", "network": "hrnet_w18_small_v1"},
}


@pytest.mark.parametrize("name", sorted(SMALL))
def test_onnx_gives_the_same_scores_at_any_batch_and_size(name, tmp_path):
    from segtrain.formats import onnx as form

    model = config.parse({"model": {"classes": 5, **SMALL[name]}, **one_d(SMALL[name])}).model
    net, source = source_of(model, 5)
    entry = form.build(source, tmp_path)
    form.check(tmp_path, entry["files"])
    loaded = onnx.load(str(tmp_path / "model.onnx"))
    assert entry["opset"] == 13 == loaded.opset_import[0].version and loaded.ir_version == 7
    assert [value.name for value in loaded.graph.input] == ["data"]
    assert [value.name for value in loaded.graph.output] == ["scores"]
    session = ort.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    for batch, sides in ((1, (37, 50)), (4, (16, 9))):
        sides = [net.side] * 2 if net.side else sides[: model.dim]
        x = np.random.default_rng(0).integers(0, 256, (batch, 3, *sides), np.uint8)
        wanted = net(mx.nd.array(x, dtype="uint8")).asnumpy()
        found = session.run(None, {"data": x})[0]
        assert found.shape == wanted.shape
        assert np.abs(found - wanted).max() <= 3e-5 * np.abs(wanted).max()


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


def test_an_onnx_file_that_reads_others_is_refused(home, tmp_path):
    import shutil

    from segtrain.errors import SegtrainError
    from segtrain.formats import onnx as form

    shutil.copy(home / "bundle/model.onnx", tmp_path / "model.onnx")
    model = onnx.load(str(tmp_path / "model.onnx"))
    model.graph.node[0].domain = "elsewhere"
    onnx.save(model, str(tmp_path / "model.onnx"))
    with pytest.raises(SegtrainError, match="ONNX"):
        form.check(tmp_path, ["model.onnx"])
    model = onnx.load(str(home / "bundle/model.onnx"))
    tensor = model.graph.initializer[0]
    values = onnx.numpy_helper.to_array(tensor)
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    onnx.external_data_helper.set_external_data(tensor, location="../../secret")
    tensor.ClearField("raw_data")
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(SegtrainError, match="reads other files|no ONNX model"):
        form.check(tmp_path, ["model.onnx"])


def test_without_onnx_one_line_says_what_to_install(home, tmp_path):
    code = "import sys; sys.modules['onnx'] = None\nfrom segtrain.cli import app; app(sys.argv[1:])"
    command = [sys.executable, "-c", code, "export", home / "run", "--out", tmp_path / "b"]
    done = subprocess.run(
        [*map(str, command), "--format", "onnx"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and "pip install 'segtrain[onnx]'" in done.stderr
