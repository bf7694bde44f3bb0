"""`segtrain init` on datasets as people have them: what it writes trains as written."""

import re

import cv2
import numpy as np
import yaml
from conftest import real, run, write_pair

from segtrain.config import load
from segtrain.data import shapes
from segtrain.data.dataset import open_split


def init(data, tmp_path, code=0):
    out = tmp_path / "config.yaml"
    found, text = run("init", data, "--out", out)
    assert found == code, text
    return out, text


def trains(out, tmp_path):
    """A step of the config as written, but for its length."""
    code, text = run(
        "train", out, "train.epochs=1", "data.workers=0", "train.batch=4", "--out", tmp_path / "run"
    )
    assert code == 0, text
    code, text = run("eval", tmp_path / "run")
    assert code == 0, text


def sample(index, size=(64, 96)):
    return shapes.build("train", size=size).read(index)


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels[..., ::-1] if pixels.ndim == 3 else pixels)


def test_folders_of_two_splits(folder, tmp_path):
    out, text = init(folder, tmp_path)
    assert "9 pairs" in text and f"next: segtrain check {out}" in text
    config = load(out)
    assert config.data.name == "folder" and config.data.options["root"] == str(folder)
    assert len(config.data.options["classes"]) == 4
    assert not list(tmp_path.glob("*.csv"))
    trains(out, tmp_path)


def test_every_value_that_was_chosen_has_its_reason(folder, tmp_path):
    out, _ = init(folder, tmp_path)
    for key in ("widths", "crop", "epochs", "batch", "class_weights", "classes", "mean"):
        line = re.search(rf"^  {key}: .*$", out.read_text(), re.MULTILINE)
        assert line and "  # " in line.group(), key


def test_folders_by_other_names(folder, tmp_path):
    for old, new in (("train", "training"), ("val", "valid")):
        (folder / old).rename(folder / new)
        (folder / new / "images").rename(folder / new / "imgs")
        (folder / new / "masks").rename(folder / new / "labels")
    out, _ = init(folder, tmp_path)
    options = load(out).data.options
    assert options["images"] == "imgs" and options["masks"] == "labels"
    assert options["splits"] == {"train": "training", "val": "valid"}
    trains(out, tmp_path)


def test_binary_masks_of_0_and_255(tmp_path):
    for i in range(6):
        image, mask = sample(i)
        for split in ("train", "val"):
            write_pair(
                tmp_path / "data" / split, f"{split}{i}", image, (mask > 0).astype(np.uint8) * 255
            )
    out, _ = init(tmp_path / "data", tmp_path)
    options = load(out).data.options
    assert options["classes"] == ["background", "object"] and options["label_map"] == {255: 1}
    assert options["ignore"] is None


def test_ids_with_gaps_and_an_ignore_value(tmp_path):
    table = np.array([0, 7, 21, 255], np.uint8)
    for i in range(4):
        image, mask = sample(i)
        mask[0, :4] = [0, 1, 2, 3]
        for split in ("train", "val"):
            write_pair(tmp_path / "data" / split, f"{split}{i}", image, table[mask])
    (tmp_path / "data" / "classes.txt").write_text("ground\ncircle\nsquare\n")
    options = load(init(tmp_path / "data", tmp_path)[0]).data.options
    assert options["label_map"] == {7: 1, 21: 2} and options["ignore"] == 255
    assert options["classes"] == ["ground", "circle", "square"]


def test_masks_that_are_no_ids_are_told(tmp_path):
    for split in ("train", "val"):
        image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
        write_pair(tmp_path / "data" / split, split, image, image[..., 0])
    _, text = init(tmp_path / "data", tmp_path, code=2)
    assert "different values, more than classes can be" in " ".join(text.split())


def test_what_it_cannot_use_is_told(folder, tmp_path):
    assert "no folder" in init(tmp_path / "nowhere", tmp_path, code=2)[1]
    (tmp_path / "empty").mkdir()
    assert "put them into images/ and masks/" in init(tmp_path / "empty", tmp_path, code=2)[1]
    (tmp_path / "config.yaml").write_text("kept")
    assert "exists" in init(folder, tmp_path, code=2)[1]
    assert (tmp_path / "config.yaml").read_text() == "kept"


def test_camvid(tmp_path):
    out, _ = init(real("camvid"), tmp_path)
    config = load(out)
    assert config.model.name == "unet" and len(config.data.options["classes"]) == 12
    assert all(side % 32 == 0 for side in config.data.crop)
    assert {len(open_split(config.data, split).ids) for split in ("train", "val")} == {367, 101}
    assert yaml.safe_load(out.read_text())["train"]["batch"] == 8
