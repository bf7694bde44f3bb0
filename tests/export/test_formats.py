"""Whole jobs on other images than 8-bit RGB: train, score, predict, export, infer; and COCO."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
import tifffile
from conftest import run
from PIL import Image

from segtrain.data import shapes


def written(root, channels, depth, name="a.tif"):
    """Two pairs a split of shapes whose colours are spread over the bands, `depth` bits each."""
    for split in ("train", "val"):
        source = shapes.build(split, size=(48, 64))
        for index in range(2):
            image, mask = source.read(index)
            bands = image[..., np.arange(channels) % 3].astype(np.float32)
            bands = bands.astype(np.uint8) if depth == 8 else bands * 257
            bands = bands.astype(np.uint16) if depth == 16 else bands
            for kind in ("images", "masks"):
                (root / split / kind).mkdir(parents=True, exist_ok=True)
            colour = {"photometric": "rgb"} if channels == 4 else {"planarconfig": "contig"}
            tifffile.imwrite(root / f"{split}/images/{index}.tif", bands, **colour)
            cv2.imwrite(str(root / f"{split}/masks/{index}.png"), mask)
    return root


def trained(tmp_path, channels, depth):
    root = written(tmp_path / "data", channels, depth)
    config = tmp_path / "deep.yaml"
    config.write_text(
        f"""
model: {{name: unet, widths: [8, 16], units: 1, in_channels: {channels}}}
data:
  name: folder
  root: {root}
  classes: {shapes.CLASSES}
  channels: {channels}
  depth: {depth}
  mean: {[30000] * channels}
  std: {[20000] * channels}
  crop: [32, 32]
  augment: [flip, color(0.2), noise(5), blur(1)]
  workers: 1
train: {{epochs: 1, batch: 2, lr: 0.01}}
"""
    )
    code, text = run("train", config, "--out", tmp_path / "run")
    assert code == 0, text
    return root / "val/images"


@pytest.mark.parametrize(("channels", "depth"), [(4, 16), (6, 32)])
def test_a_whole_job_on_images_of_many_bands(tmp_path, channels, depth):
    images = trained(tmp_path, channels, depth)
    code, text = run("train", tmp_path / "deep.yaml", "data.mean=null", "--out", tmp_path / "no")
    assert code == 2 and "data.mean and data.std" in text and "0.tif they are [" in text
    scores = tmp_path / "scores.json"
    assert run("eval", tmp_path / "run", "--json", scores)[0] == 0
    assert json.loads(scores.read_text())["miou"] >= 0
    assert run("export", tmp_path / "run", "--out", tmp_path / "bundle")[0] == 0
    about = json.loads((tmp_path / "bundle/model.json").read_text())
    assert (about["input"]["channels"], about["input"]["depth"]) == (channels, depth)
    assert json.loads((tmp_path / "bundle/parity.json").read_text())["passed"]
    for model in ("run", "bundle"):
        code, text = run(
            "predict", tmp_path / model, images, "--out", tmp_path / f"by-{model}", "--overlay"
        )
        assert code == 0, text
    arrays = tmp_path / "arrays"
    arrays.mkdir()
    for path in images.iterdir():
        np.save(arrays / f"{path.stem}.npy", tifffile.imread(path))
    given = images if channels == 4 else arrays
    done = inferred(tmp_path, given, "--overlay")
    assert done.returncode == 0, done.stderr
    for path in images.iterdir():
        masks = [tmp_path / f"by-{m}/{path.stem}.png" for m in ("run", "bundle", "infer")]
        found = [np.asarray(Image.open(m)) for m in masks]
        assert found[0].shape == (48, 64) and all((m == found[0]).all() for m in found)
        assert (tmp_path / "by-infer/overlays" / f"{path.stem}.png").is_file()
    refuses(tmp_path, images)


def inferred(tmp_path, given, *more):
    command = [
        sys.executable,
        tmp_path / "bundle/infer.py",
        given,
        "--out",
        tmp_path / "by-infer",
        *more,
    ]
    return subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False)


def refuses(tmp_path, images):
    """One line for a picture of another kind, and for bands that OpenCV can't read."""
    photo = tmp_path / "photo.png"
    cv2.imwrite(str(photo), np.zeros((8, 8, 3), np.uint8))
    code, text = run("predict", tmp_path / "run", photo, "--out", tmp_path / "no")
    assert code == 2 and "photo.png is 8-bit with 3 channels, and" in text and "is wanted" in text
    done = inferred(tmp_path, photo)
    assert done.returncode == 2 and "photo.png is 8-bit with 3 channels" in done.stderr
    bands = tmp_path / "bands.tif"
    tifffile.imwrite(bands, np.zeros((8, 8, 6), np.uint16), planarconfig="contig")
    done = inferred(tmp_path, bands)
    assert done.returncode == 2 and ".npy" in done.stderr and "Traceback" not in done.stderr


def test_splits_of_other_classes_are_refused(tmp_path):
    for split, names in (("train", ["cat", "dog"]), ("val", ["dog", "cat"])):
        (tmp_path / split).mkdir()
        cv2.imwrite(str(tmp_path / split / "a.png"), np.zeros((32, 32, 3), np.uint8))
        content = {
            "images": [{"id": 1, "file_name": "a.png", "height": 32, "width": 32}],
            "annotations": [],
            "categories": [{"id": i, "name": name} for i, name in enumerate(names)],
        }
        (tmp_path / f"{split}.json").write_text(json.dumps(content))
    config = tmp_path / "coco.yaml"
    data = f"{{name: coco, root: {tmp_path}, annotations: {{train: train.json, val: val.json}}}}"
    config.write_text(f"model: {{name: unet, widths: [8, 16]}}\ndata: {data}\n")
    code, text = run("train", config, "--out", tmp_path / "run")
    assert code == 2 and "'val' has the classes background, dog, cat" in text
    code, text = run("train", config, "data.channels=4", "data.order=size", "--out", tmp_path / "run")
    assert code == 2 and "data.order" in text and "area" in text
