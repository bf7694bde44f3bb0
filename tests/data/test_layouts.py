"""The published layouts, each with files of its own quirks: voc, cityscapes, ade20k, camvid."""

import ast
import inspect
import re

import cv2
import numpy as np
import pytest
from conftest import real
from PIL import Image

from segtrain.data import ade20k, camvid, cityscapes, folder, voc
from segtrain.data.scan import scan
from segtrain.errors import UserError


def says(*texts):
    return pytest.raises(UserError, match="".join(f"(?=.*{t})" for t in texts))


def put(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.asarray(pixels, np.uint8))


def pairs_fit(data):
    for index in range(len(data.ids)):
        image, mask = data.read(index)
        assert image.shape[:2] == mask.shape and image.dtype == mask.dtype == np.uint8
        assert set(np.unique(mask)) <= {*range(len(data.classes)), data.ignore}
    return scan(data, "train").pixels.sum()


IMAGE, IDS = np.zeros((2, 4, 3)), [[0, 1, 2, 3], [4, 255, 20, 0]]


@pytest.fixture
def voc_root(tmp_path):
    home = tmp_path / "VOCdevkit/VOC2012"
    for name in ("2007_000001", "2007_000002"):
        put(home / f"JPEGImages/{name}.jpg", IMAGE)
        put(home / f"SegmentationClass/{name}.png", IDS)
    put(home / "JPEGImages/unsegmented.jpg", IMAGE)
    lists = home / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2007_000002\n")
    (lists / "val.txt").write_text("2007_000001\n")
    return tmp_path


def test_voc_from_any_folder_above(voc_root):
    for root in (voc_root, voc_root / "VOCdevkit", voc_root / "VOCdevkit/VOC2012"):
        data = voc.build("train", root=root)
        assert data.ids == ["2007_000002"] and data.read(0).mask.tolist() == IDS
    assert len(data.classes) == 21 and data.classes[15] == "person" and data.ignore == 255
    assert voc.build("test", root=voc_root, splits={"test": "val"}).ids == ["2007_000001"]


def test_voc_says_what_is_missing(voc_root):
    home = voc_root / "VOCdevkit/VOC2012"
    with says("no split 'test'", "train, val", "data.splits={test: LIST}"):
        voc.build("test", root=voc_root)
    with says("no folder", "SegmentationClassAug"):
        voc.build("train", root=voc_root, masks="SegmentationClassAug")
    (home / "SegmentationClass/2007_000002.png").unlink()
    assert "2007_000002.jpg: an image without a mask" in voc.build("train", root=voc_root).problems[0]
    (home / "JPEGImages/2007_000002.jpg").unlink()
    assert "train.txt: names '2007_000002'" in voc.build("train", root=voc_root).problems[0]
    (home.parent / "VOC2007/JPEGImages").mkdir(parents=True)
    with says("VOC2007 and .*VOC2012", "data.root"):
        voc.build("train", root=voc_root)
    with says("holds no JPEGImages", "data.root"):
        voc.build("train", root=home / "ImageSets")


def test_voc_palette_pngs():
    root = real("voc-sample")
    train, val = (voc.build(split, root=root) for split in ("train", "val"))
    assert len({*train.ids, *val.ids}) == 3
    assert pairs_fit(train) > 0
    for data in (train, val):
        for index, name in enumerate(data.ids):
            with Image.open(root / f"VOC2012/SegmentationClass/{name}.png") as file:
                assert file.mode == "P" and (data.read(index).mask == np.asarray(file)).all()


def test_cityscapes(tmp_path):
    for city, frame in (("aachen", "000000_000019"), ("bochum", "000000_000313")):
        stem = f"{city}/{city}_{frame}"
        put(tmp_path / f"leftImg8bit/train/{stem}_leftImg8bit.png", IMAGE)
        put(tmp_path / f"gtFine/train/{stem}_gtFine_labelIds.png", [[7, 8, 11, 33], [0, 4, 29, 26]])
        put(tmp_path / f"gtFine/train/{stem}_gtFine_color.png", IMAGE)
        put(tmp_path / f"gtFine/train/{stem}_gtFine_instanceIds.png", IMAGE)
    data = cityscapes.build("train", root=tmp_path)
    assert data.ids == ["aachen/aachen_000000_000019", "bochum/bochum_000000_000313"]
    assert len(data.classes) == 19 and data.classes[13] == "car" and data.classes[18] == "bicycle"
    assert data.read(1).mask.tolist() == [[0, 1, 2, 18], [255, 255, 255, 13]]
    assert pairs_fit(data) == 2 * 5
    with says("no folder", "leftImg8bit/val", "data.splits"):
        cityscapes.build("val", root=tmp_path)
    with says("gtCoarse"):
        cityscapes.build("train", root=tmp_path, labels="gtCoarse")
    mask = tmp_path / "gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png"
    put(mask, np.full((2, 4), 77))
    with says("holds 77", "data.name=list"):
        data.read(0)
    mask.unlink()
    problems = cityscapes.build("train", root=tmp_path).problems
    assert "aachen_000000_000019_leftImg8bit.png: an image without a mask" in problems[0]


def test_cityscapes_table_is_that_of_gluoncv():
    """Trained weights and published scores use these ids; GluonCV keeps the table on its own."""
    from gluoncv.data import CitySegmentation

    text = inspect.getsource(CitySegmentation)
    theirs = ast.literal_eval(re.search(r"_key = np.array\((\[.*?\])\)", text, re.S).group(1))
    table = {label: i for i, label in enumerate(cityscapes.LABELS)}
    assert [table.get(label, -1) for label in range(-1, 34)] == theirs


def test_ade20k(tmp_path):
    put(tmp_path / "images/training/ADE_train_00000001.jpg", IMAGE)
    put(tmp_path / "annotations/training/ADE_train_00000001.png", [[0, 1, 2, 150], [0, 0, 13, 13]])
    data = ade20k.build("train", root=tmp_path)
    assert data.read(0).mask.tolist() == [[255, 0, 1, 149], [255, 255, 12, 12]]
    assert data.classes[0] == "wall" and len(data.classes) == 150 and pairs_fit(data) == 5
    rows = [f"{i}\t0.1\t1\t1\tthing {i}, object" for i in range(1, 151)]
    (tmp_path / "objectInfo150.txt").write_text("\n".join(["Idx\tRatio\tTrain\tVal\tName", *rows]))
    assert ade20k.build("train", root=tmp_path).classes[149] == "thing 150, object"
    put(tmp_path / "annotations/training/ADE_train_00000001.png", np.full((2, 4), 151))
    with says("ADE_train_00000001.png holds 151"):
        data.read(0)
    (tmp_path / "objectInfo150.txt").write_text("\n".join(rows))
    with says("objectInfo150.txt names 149 classes"):
        ade20k.build("train", root=tmp_path)
    with says("no folder", "images/validation"):
        ade20k.build("val", root=tmp_path)


def test_camvid_as_segnet_has_it(tmp_path):
    for name in ("0001TP_006690", "0001TP_006720"):
        put(tmp_path / f"train/{name}.png", IMAGE)
        put(tmp_path / f"trainannot/{name}.png", [[0, 1, 2, 11], [4, 5, 10, 0]])
    data = camvid.build("train", root=tmp_path)
    assert len(data.ids) == 2 and data.ignore == 11 and data.classes[10] == "bicyclist"
    assert pairs_fit(data) == 2 * 7
    row = "/SegNet/CamVid/train/0001TP_006720.png /SegNet/CamVid/trainannot/0001TP_006720.png"
    (tmp_path / "train.txt").write_text(f"{row}\n")
    assert camvid.build("train", root=tmp_path).ids == ["0001TP_006720"]
    (tmp_path / "train.txt").write_text(row.replace("6720", "9999"))
    assert "train.txt: names '0001TP_009999'" in camvid.build("train", root=tmp_path).problems[0]
    with says("no split 'val'", "valannot", "data.root"):
        camvid.build("val", root=tmp_path)


def test_camvid_is_folder_with_its_classes_and_void():
    root = real("camvid")
    data = camvid.build("val", root=root)
    plain = folder.build("val", root=root, classes=camvid.CLASSES, ignore=11)
    assert data.ids == plain.ids and len(data.ids) == 101
    assert all((data.read(i).mask == plain.read(i).mask).all() for i in (0, 50, 100))
