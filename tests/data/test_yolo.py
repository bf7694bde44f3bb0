"""YOLO's segmentation labels: the pixels that are meant, and errors that name file and line."""

import cv2
import numpy as np
import pytest
from conftest import run

from segtrain.config import load
from segtrain.data import yolo
from segtrain.data.dataset import open_split
from segtrain.errors import UserError

SQUARE = "0 0.25 0.25 0.75 0.25 0.75 0.75 0.25 0.75"  # the middle of the image
SMALL = "1 0.5 0.5 0.625 0.5 0.625 0.75 0.5 0.75"
NAMES = "path: .\ntrain: images/train\nnames:\n  0: cat\n  1: dog\n"


def written(root, layout="images/{0}", labels=(f"{SMALL}\n{SQUARE}\n", None), names=NAMES, val="val"):
    rng = np.random.default_rng(0)
    for split in ("train", val):
        home = root / layout.format(split)
        beside = root / layout.format(split).replace("images", "labels")
        home.mkdir(parents=True)
        beside.mkdir(parents=True)
        for i, text in enumerate(labels):
            pixels = rng.integers(0, 256, (32, 48, 3), np.uint8)
            cv2.imwrite(str(home / f"{split} {i}.jpg"), pixels)
            if text is not None:
                (beside / f"{split} {i}.txt").write_text(text)
    (root / "data.yaml").write_text(names)
    return root


@pytest.mark.parametrize("layout, val", [("images/{0}", "val"), ("{0}/images", "valid")])
def test_polygons_become_masks_the_smaller_one_on_top(tmp_path, layout, val):
    made = yolo.build("val", root=written(tmp_path, layout, val=val))
    assert made.classes == ["background", "cat", "dog"] and len(made.ids) == 2
    wanted = np.zeros((32, 48), np.uint8)
    wanted[8:24, 12:36] = 1
    wanted[16:24, 24:30] = 2
    assert (made.read(0).mask == wanted).all()
    assert not made.read(1).mask.any() and len(made.files(1)) == 1  # no label: nothing is in it


@pytest.mark.parametrize(
    "text, told",
    [
        ("0 0.5 0.5 0.2 0.2", "line 1: a box, of labels for detection"),
        (f"{SQUARE}\n7 0 0 1 0 1 1", "line 2: class 7, and there are 2"),
        ("0 0 0 1 0", "line 1: a box"),
        ("0 0 0 1 0 1", "5 numbers after the class"),
        ("0 10 10 30 10 30 20", "parts of the image's size"),
        ("cat 0 0 1 0 1 1", "isn't a class id and numbers"),
    ],
)
def test_a_line_that_is_not_right_is_named(tmp_path, text, told):
    made = yolo.build("train", root=written(tmp_path, labels=(text, None)))
    with pytest.raises(UserError, match=f"train 0.txt.*{told}"):
        made.read(0)


def test_what_is_missing_is_told(tmp_path):
    written(tmp_path / "a", names="nothing: here")
    with pytest.raises(UserError, match="set data.classes"):
        yolo.build("train", root=tmp_path / "a")
    assert yolo.build("train", root=tmp_path / "a", classes=["x", "y"]).classes[1:] == ["x", "y"]
    with pytest.raises(UserError, match="no split 'test'"):
        yolo.build("test", root=tmp_path / "a")
    (tmp_path / "b/images/train").mkdir(parents=True)
    with pytest.raises(UserError, match="with its labels"):
        yolo.build("train", root=tmp_path / "b", classes=["x"])


def test_init_knows_the_layout(tmp_path):
    root, out = written(tmp_path / "data", labels=(SQUARE, SMALL, None)), tmp_path / "config.yaml"
    code, text = run("init", root, "--out", out)
    assert code == 0 and "YOLO" in text, text
    train = open_split(load(out).data, "train")
    assert load(out).data.name == "yolo" and train.classes == ["background", "cat", "dog"]
