"""What a network is made of, where its parts stand in a drawing, and what its skips are worth."""

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import cv2
import mxnet as mx
import numpy as np
import pytest
from conftest import run, write_pair

from segtrain import models
from segtrain.config import load, parse
from segtrain.graph import drawing, graph
from segtrain.graph.layout import layout

CONFIGS = Path(__file__).parents[2] / "configs"


def described(model, crop=(64, 64)):
    return graph.describe(parse({"model": {"classes": 3, **model}, "data": {"crop": list(crop)}}))


def places(model):
    """Where the taps stand: {name: [(column, row), ...]}."""
    found = {}
    for _, data in layout(described(model)).graph.nodes(data=True):
        for tap in data["taps"]:
            found.setdefault(tap, []).append((data["column"], data["row"]))
    return found


def test_layers_know_their_inputs_and_taps():
    result = described({"name": "unet", "widths": [8, 16]})
    layers = {layer["name"]: layer for layer in result["layers"]}
    names = [*layers, "data"]
    assert all(source in names for layer in layers.values() for source in layer["inputs"])
    concat = next(layer for layer in layers.values() if layer["type"] == "Concat")
    kinds = {layers[source]["type"] for source in concat["inputs"]}
    assert kinds == {"Deconvolution", "Activation"}
    assert {tap for layer in layers.values() for tap in layer["taps"]} == {"e0", "e1", "d0"}


def test_a_unet_looks_like_a_unet():
    at = places({"name": "unet", "widths": [8, 8, 8, 8]})
    assert [at[f"e{i}"] for i in range(4)] == [[(1, i)] for i in range(4)]
    assert [at[f"d{i}"] for i in range(3)] == [[(2, i)] for i in range(3)]


def test_a_gridnet_looks_like_a_grid():
    at = places({"name": "gridnet", "widths": [8, 8, 8], "down_columns": 2, "up_columns": 3})
    assert [at[f"e{i}"] for i in range(3)] == [[(1, i)] for i in range(3)]
    for i in range(3):
        assert sorted(at[f"y{i}"]) == [(column, i) for column in range(2, 6)]


def test_a_unetpp_looks_like_a_triangle():
    at = places({"name": "unetpp", "widths": [8, 8, 8, 8]})
    for i in range(3):
        for j in range(1, 4 - i):
            assert at[f"x{i}_{j}"] == [(1 + j, i)]


def test_the_mix_is_an_encoder_a_column_and_a_decoder_with_paths_between():
    drawn = layout(described({"name": "gridunet", "widths": [8, 8, 8], "columns": 1})).graph
    names = {tap: node for node, data in drawn.nodes(data=True) for tap in data["taps"]}
    for i in range(2):
        path = drawn.edges[names[f"y{i}"], names[f"d{i}"]]["layers"]
        assert sum(layer["does"] == "3x3 conv" for layer in path) == 2


@pytest.mark.parametrize("path", sorted((CONFIGS / "networks").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_network_is_drawn_whole(path):
    """Each layer's parameters stand in one place, no two nodes in the same, arrows lead onwards."""
    result = graph.describe(load(path))
    drawn = layout(result)
    nodes = list(drawn.graph.nodes(data=True))
    layers = [layer for _, data in nodes for layer in data["layers"]]
    layers += [layer for _, _, data in drawn.graph.edges(data=True) for layer in data["layers"]]
    shown = sum(layer["parameters"] for layer in layers if layer["output_shape"] != [1, 1, 1, 1])
    assert shown == result["parameters"]
    assert len({(data["row"], data["column"]) for _, data in nodes}) == len(nodes)
    for u, v in drawn.graph.edges:
        assert drawn.graph.nodes[u]["column"] <= drawn.graph.nodes[v]["column"]
    root = ElementTree.fromstring(drawing.svg(result))
    assert root.tag.endswith("svg") and f"{result['parameters']:,} parameters" in drawing.svg(result)
    width, height = (float(root.attrib[side]) for side in ("width", "height"))
    for box in root.iter("{http://www.w3.org/2000/svg}rect"):
        if "x" in box.attrib:
            assert 0 <= float(box.attrib["x"]) <= width - float(box.attrib["width"])
            assert 0 <= float(box.attrib["y"]) <= height - float(box.attrib["height"])


@pytest.mark.parametrize(
    ("model", "names"),
    [
        ({"name": "unet", "widths": [8, 8, 8]}, ["s1", "s0"]),
        ({"name": "segnet", "widths": [8, 8], "units": [1, 1]}, ["s1", "s0"]),
        (
            {"name": "gridnet", "widths": [8, 8], "down_columns": 1, "up_columns": 2},
            ["1.3.x1", "1.3.x0", "1.4.x1", "1.4.x0"],
        ),
        ({"name": "resnet1d", "widths": [8]}, []),
    ],
)
def test_skips_are_what_is_read_at_its_own_resolution(model, names):
    config = parse({"model": model})
    net = models.network(config.model, 3)
    assert [skip.name for skip in graph.skips(net, (1, 3, 32, 32))] == names


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on a task that only the finest skip can solve: each pixel's own brightness."""
    home = tmp_path_factory.mktemp("pixels")
    rng = np.random.default_rng(0)
    for split, count in (("train", 24), ("val", 4)):
        for i in range(count):
            image = rng.integers(0, 2, (32, 32, 1), np.uint8).repeat(3, axis=2)
            write_pair(home / "data" / split, f"{i:02d}", image * 200 + 20, image[..., 0])
    config = home / "pixels.yaml"
    config.write_text(
        f"""
model: {{name: unet, widths: [8, 16, 16], units: 1}}
data: {{root: {home / "data"}, classes: [dark, bright], crop: [32, 32], workers: 0, augment: [flip]}}
train: {{epochs: 10, batch: 8, lr: 0.02, optimizer: adam}}
eval: {{every: 10}}
"""
    )
    code, text = run("train", config, "--out", home / "run")
    assert code == 0, text
    return home / "run"


def test_what_each_skip_is_worth(trained, tmp_path):
    result, chart = tmp_path / "skips.json", tmp_path / "skips.png"
    code, text = run("skips", trained, "--json", result, "--png", chart)
    assert code == 0, text
    told = json.loads(result.read_text())
    run("eval", trained, "--json", tmp_path / "eval.json")
    assert told["miou"] == json.loads((tmp_path / "eval.json").read_text())["miou"]
    assert [row["name"] for row in told["skips"]] == ["s1", "s0"]
    assert [row["shape"] for row in told["skips"]] == [[16, 16, 16], [8, 32, 32]]
    for row in told["skips"]:
        assert row["worth"] == pytest.approx(told["miou"] - row["miou"])
    worth = {row["name"]: row["worth"] for row in told["skips"]}
    assert told["miou"] > 0.95 and worth["s0"] > 0.4 and abs(worth["s1"]) < 0.1
    assert cv2.imread(str(chart)).shape[1] > 500


def test_a_cut_skip_is_a_network_that_sees_zeros_there(trained):
    """The same as zeroing the weights with which the decoder reads the skip."""
    from segtrain.trained import open_trained

    cut, zeroed = open_trained(trained), open_trained(trained)
    x = mx.nd.array(np.random.default_rng(0).integers(0, 256, (1, 3, 64, 64)), dtype="uint8")
    skip = next(s for s in graph.skips(cut.net, (1, 3, 64, 64)) if s.name == "s0")
    with skip.chain.cut(skip.key):
        cut.net.hybridize()
        without = cut.net(x)
    reader = zeroed.net.block("d0")._collect_params_with_prefix()["0.0.weight"]
    weight = reader.data().copy()
    weight[:, 8:] = 0  # behind the eight channels that come from below
    reader.set_data(weight)
    assert np.allclose(without.asnumpy(), zeroed.net(x).asnumpy(), atol=1e-5)


def test_feature_maps_as_a_picture(trained, tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "photo.png"), image)
    arguments = ["--image", tmp_path / "photo.png", "--out", tmp_path / "maps.png"]
    code, text = run("show", trained, "--tap", "e1", *arguments)
    assert code == 0 and "e1: 16 maps of 26x36" in text
    assert cv2.imread(str(tmp_path / "maps.png")).shape == (2 * 136, 8 * 164, 3)
    for wrong, says in (("e9", "no block 'e9'; named ones are"), ("heads.1.0", "no single stack")):
        code, text = run("show", trained, "--tap", wrong, *arguments)
        assert code == 2 and says in text
    code, text = run("show", trained, "--tap", "e1")
    assert code == 2 and "needs all three" in text
    (tmp_path / "photo.png").write_text("no image")
    code, text = run("show", trained, "--tap", "e1", *arguments)
    assert code == 2 and "photo.png: not an image" in text


def test_show_draws_and_takes_a_run(trained, tmp_path):
    code, text = run("show", trained, "--svg", tmp_path / "net.svg", "--json", tmp_path / "net.json")
    assert code == 0 and "net.svg" in text
    ElementTree.parse(str(tmp_path / "net.svg"))
    assert json.loads((tmp_path / "net.json").read_text())["model"] == "unet"


def test_what_has_no_skips_says_so(trained, config_file, tmp_path):
    model = "model={name: resnet1d, widths: [4], kernels: [3]}"
    assert run("train", config_file, model, "train.epochs=1", "--out", tmp_path / "run")[0] == 0
    code, text = run("skips", tmp_path / "run")
    assert code == 2 and "resnet1d has no skip connections" in text
    assert run("export", trained, "--out", tmp_path / "bundle")[0] == 0
    code, text = run("skips", tmp_path / "bundle")
    assert code == 2 and "is a bundle" in text
