"""The bundle: its infer.py, alone in a process, gives what `segtrain predict` gives, byte for byte."""

import hashlib
import json
import re
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
from conftest import ALONE, run

from segtrain.data import shapes
from segtrain.data.files import read_mask
from segtrain.export.bundle import OPERATORS


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("export")
    (home / "c.yaml").write_text(
        """
model: {name: unet, fold: 2, widths: [8, 16, 32], units: 1}
data: {name: shapes, size: [48, 64], train: 24, val: 4, crop: [48, 48], workers: 0}
train: {epochs: 2, batch: 4, lr: 0.01, optimizer: adam}
"""
    )
    plain = (*export_to(home, "plain"), "--no-fold")
    for arguments in (
        ("train", home / "c.yaml", "--out", home / "run"),
        export_to(home, "bundle"),
        plain,
    ):
        code, text = run(*arguments)
        assert code == 0, text
    for height, width in ((360, 480), (517, 333), (32, 32)):
        image, _ = shapes.build("test", size=(height, width)).read(0)
        (home / "images").mkdir(exist_ok=True)
        cv2.imwrite(str(home / "images" / f"{width}x{height}.png"), image[..., ::-1])
    return home


def export_to(home, name):
    return "export", home / "run", "--out", home / name


def test_what_a_bundle_holds(home):
    assert {p.name for p in (home / "bundle").iterdir()} == {
        "model-symbol.json",
        "model-0000.params",
        "model.json",
        "parity.json",
        "infer.py",
        "pictures.py",
        "tiling.py",
        "video.py",
        "runtimes.py",
        "threads.py",
        "README.md",
    }
    about = json.loads((home / "bundle/model.json").read_text())
    assert about["classes"] == shapes.CLASSES and about["stride"] == 8
    assert about["score"]["miou"] > 0
    assert about["receptive_field"] == {"extent": [52, 52], "exact": True}
    assert (about["window"], about["overlap"]) == (104, 0.5)
    assert about["fold"] == {"batch_norms": 5, "left": 0, "why": "all"}
    operators = {n["op"] for n in json.loads((home / "bundle/model-symbol.json").read_text())["nodes"]}
    assert "BatchNorm" not in operators and operators <= OPERATORS
    assert about["formats"]["mxnet"]["files"] == ["model-symbol.json", "model-0000.params"]
    digest = hashlib.sha256((home / "bundle/model-0000.params").read_bytes()).hexdigest()
    assert about["sha256"]["model-0000.params"] == digest and len(about["sha256"]) == 10
    parity = json.loads((home / "bundle/parity.json").read_text())
    assert parity["passed"] and parity["differing_pixels"] == 0
    sizes = [(row["height"], row["width"]) for row in parity["images"]]
    assert sizes == [(48, 64), (333, 517), (32, 32)]
    assert parity["miou"] == parity["miou_of_run"] > 0 and parity["scored_images"] == 4


@pytest.mark.parametrize("bundle", ["bundle", "plain"])
def test_infer_alone_equals_predict_byte_for_byte(home, bundle):
    """`predict` of the bundle always; of the run too, but for ties where norms were folded."""
    code, text = run("predict", home / "run", home / "images", "--out", home / "of-run", "--overlay")
    assert code == 0, text
    code, _ = run("predict", home / bundle, home / "images", "--out", home / "of-bundle", "--overlay")
    assert code == 0
    command = [sys.executable, "-c", ALONE, str(home / bundle / "infer.py"), str(home / "images")]
    done = subprocess.run(
        [*command, "--out", str(home / "of-infer"), "--overlay"],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
    )
    assert done.returncode == 0, done.stderr
    masks = sorted(p.name for p in (home / "of-run").glob("*.png"))
    assert masks == ["32x32.png", "333x517.png", "480x360.png"]
    for name in [*masks, *(f"overlays/{name}" for name in masks)]:
        mine = (home / "of-bundle" / name).read_bytes()
        assert (home / "of-infer" / name).read_bytes() == mine
        assert bundle == "bundle" or (home / "of-run" / name).read_bytes() == mine
    for name in masks:
        of_run, of_bundle = (read_mask(home / part / name) for part in ("of-run", "of-bundle"))
        assert (of_run != of_bundle).mean() < 1e-4
        assert of_run.shape == tuple(int(n) for n in name[:-4].split("x")[::-1])


def test_a_network_that_disagrees_is_not_exported(home, monkeypatch):
    """An infer.py that gives the least likely class fails the proof, and nothing is left behind."""
    from segtrain.export import parity

    run_script = parity._infer

    def doctored(bundle, *arguments):
        script = bundle / "infer.py"
        text = script.read_text()
        for right, wrong in (("plane > best", "plane < best"), ("maximum(best", "minimum(best")):
            text = text.replace(right, wrong)
            assert text.count(wrong) == 1
        script.write_text(text)
        run_script(bundle, *arguments)

    monkeypatch.setattr(parity, "_infer", doctored)
    code, text = run(*export_to(home, "wrong"))
    assert code == 1 and "disagrees" in text and "mxnet" in text
    assert not [p for p in home.iterdir() if "wrong" in p.name]


def test_predict_skips_nothing_and_names_what_it_cant_read(home, tmp_path):
    (tmp_path / "broken.png").write_bytes((home / "images/32x32.png").read_bytes()[:-40])
    code, text = run("predict", home / "run", tmp_path, "--out", tmp_path / "out")
    assert code == 2 and "broken.png" in text
    code, text = run("predict", home / "run", tmp_path / "nothing", "--out", tmp_path / "out")
    assert code == 2 and "no image or video there" in text


def test_an_image_is_never_written_over(home, tmp_path):
    image = home / "images/32x32.png"
    (tmp_path / "overlays").mkdir()
    for path in (tmp_path / "a.png", tmp_path / "overlays/a.png"):
        path.write_bytes(image.read_bytes())
        for arguments in ((path, "--out", tmp_path), (path, path.parent, "--out", tmp_path)):
            code, text = run("predict", home / "bundle", *arguments, "--overlay")
            assert code == 2 and "is one of the inputs" in text
        assert path.read_bytes() == image.read_bytes()
        path.unlink()


def test_without_folding_the_symbol_is_the_networks_own(home):
    about = json.loads((home / "plain/model.json").read_text())
    assert about["fold"] == {"batch_norms": 0, "left": 5, "why": "asked not to"}
    parity = json.loads((home / "plain/parity.json").read_text())
    assert parity["max_abs_difference"] == 0


def test_norms_stay_where_folding_would_show(home, monkeypatch):
    from segtrain.export import export as module

    monkeypatch.setattr(module, "EXACT", 0)
    code, text = run(*export_to(home, "inexact"))
    assert code == 0, text
    fold = json.loads((home / "inexact/model.json").read_text())["fold"]
    assert fold["batch_norms"] == 0 and "a score would differ" in fold["why"]


def test_the_readme_works_as_written(home, tmp_path):
    """Each block of Python in the bundle's README, run as it is in the bundle's folder."""
    shutil.copytree(home / "bundle", tmp_path / "b")
    image, _ = shapes.build("test", size=(70, 90)).read(0)
    cv2.imwrite(str(tmp_path / "b/photo.png"), image[..., ::-1])
    (tmp_path / "b/triton_python_backend_utils.py").write_text(TRITON)
    blocks = re.findall(r"```python\n(.*?)```", (tmp_path / "b/README.md").read_text(), re.S)
    gluon, module, triton, server = blocks
    checks = (
        f"wanted = mask\n{module}\nassert (mask == wanted).all() and mask.shape == (70, 90)",
        f"{triton}\nmodel = TritonPythonModel()",
        "place = {'model_repository': '..', 'model_version': 'b'}",
        "model.initialize(place)\nfound = model.execute([image.transpose(2, 0, 1)[None]])[0][0][1]",
        "assert (found[0].argmax(axis=0) == wanted).all()",
        f"{server}\nfrom types import SimpleNamespace",
        "place = SimpleNamespace(system_properties={'model_dir': '.'})",
        "answer = handle([{'body': open('photo.png', 'rb').read()}], place)[0]",
        "assert (cv2.imdecode(np.frombuffer(answer, np.uint8), 0) == wanted).all()",
    )
    code = "\n".join([gluon, *checks])
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "b", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


TRITON = """
Tensor = lambda name, values: (name, values)
InferenceResponse = lambda tensors: tensors

def get_input_tensor_by_name(request, name):
    class Given:
        as_numpy = staticmethod(lambda: request)
    return Given
"""


def test_eval_json_agrees_with_the_masks_that_predict_writes(home):
    code, text = run("eval", home / "run", "--json", home / "eval.json")
    assert code == 0 and "mIoU" in text and "policy" in text
    result = json.loads((home / "eval.json").read_text())
    data = shapes.build("val", size=(48, 64), val=4)
    hits, truth = np.zeros(4), np.zeros(4)
    union = np.zeros(4)
    for index, name in enumerate(data.ids):
        image, mask = data.read(index)
        cv2.imwrite(str(home / f"{name}.png"), image[..., ::-1])
        code, _ = run("predict", home / "run", home / f"{name}.png", "--out", home / "masks")
        predicted = read_mask(home / "masks" / f"{name}.png")
        for c in range(4):
            hits[c] += ((mask == c) & (predicted == c)).sum()
            union[c] += ((mask == c) | (predicted == c)).sum()
            truth[c] += (mask == c).sum()
    expected = hits[union > 0] / union[union > 0]
    assert result["miou"] == pytest.approx(expected.mean())
    assert [row["pixels"] for row in result["per_class"]] == truth.tolist()
    low, high = result["miou_ci95"]
    assert low <= result["miou"] <= high
    assert [row["id"] for row in result["images"]] == data.ids
    assert np.array(result["confusion"]).sum() == 4 * 48 * 64
    for key in ("pixel_accuracy", "policy", "images_per_second", "split"):
        assert key in result


@pytest.mark.parametrize(
    "options", [["--flip"], ["--scales", "0.5,1"], ["--window", "32", "--overlap", "0.25"]]
)
def test_eval_by_other_policies(home, options):
    code, text = run("eval", home / "run", *options, "--json", "-")
    assert code == 0
    result = json.loads(text[text.index("{\n") :])
    assert 0 < result["miou"] < 1
    assert result["policy"]["flip"] == ("--flip" in options)
