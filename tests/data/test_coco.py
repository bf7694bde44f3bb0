"""COCO files, drawn as pycocotools draws them."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import real
from pycocotools import mask as run_lengths

from segtrain.data import coco
from segtrain.data.scan import scan
from segtrain.errors import UserError

SQUARE = [[2, 2, 12, 2, 12, 12, 2, 12]]
INNER = [[4, 4, 8, 4, 8, 8, 4, 8]]


def says(*texts):
    return pytest.raises(UserError, match="".join(f"(?=.*{t})" for t in texts))


def region(category, outline, area, number=1, image=7, **more):
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "segmentation": outline,
        "area": area,
        **more,
    }


def written(root, *regions, categories=((1, "cat"), (5, "dog")), **changes):
    (root / "train").mkdir(exist_ok=True)
    cv2.imwrite(str(root / "train/a.png"), np.zeros((16, 20, 3), np.uint8))
    content = {
        "images": [{"id": 7, "file_name": "a.png", "height": 16, "width": 20}],
        "annotations": list(regions),
        "categories": [{"id": i, "name": n} for i, n in categories],
        **changes,
    }
    (root / "train.json").write_text(json.dumps(content))
    return root


def opened(root, **options):
    return coco.build("train", **{"root": root, "annotations": {"train": Path("train.json")}, **options})


def mask_of(root, **options):
    return opened(root, **options).read(0).mask


def test_the_smaller_one_stays_on_top_or_the_later_one(tmp_path):
    written(tmp_path, region(1, INNER, 16), region(5, SQUARE, 100))
    mask = mask_of(tmp_path)
    assert (mask[0, 0], mask[3, 3], mask[5, 5]) == (0, 2, 1)
    assert mask_of(tmp_path, order="annotation")[5, 5] == 2


def test_polygons_run_lengths_and_crowds(tmp_path):
    inside = np.zeros((16, 20), np.uint8, order="F")
    inside[5:9, 3:15] = 1
    packed = run_lengths.encode(inside)
    text = {"size": packed["size"], "counts": packed["counts"].decode()}
    column = inside.ravel(order="F")
    edges = np.flatnonzero(np.diff(column)) + 1
    plain = {"size": [16, 20], "counts": np.diff([0, *edges, column.size]).tolist()}
    for outline in (text, plain):
        written(tmp_path, region(1, outline, 48))
        assert (mask_of(tmp_path) == inside).all()
    written(tmp_path, region(1, plain, 48, iscrowd=1), region(5, SQUARE, 100))
    mask = mask_of(tmp_path)
    assert (mask[inside == 1] == 255).all() and (mask == 2).any()


def test_a_subset_of_the_categories(tmp_path):
    written(tmp_path, region(1, INNER, 16), region(5, SQUARE, 100))
    data = opened(tmp_path, classes=["dog"])
    assert data.classes == ["background", "dog"] and data.read(0).mask[5, 5] == 1
    with says("no 'dgo'", "did you mean dog"):
        opened(tmp_path, classes=["dgo"])


def test_categories_of_one_name_are_kept_apart_and_that_is_said_once(tmp_path, capsys):
    twice = ((1, "cat"), (3, "cat"), (4, "background"))
    written(tmp_path, region(3, INNER, 16), categories=twice)
    for _ in range(2):
        data = opened(tmp_path)
    assert data.classes == ["background", "cat (id 1)", "cat (id 3)", "background (id 4)"]
    assert data.read(0).mask[5, 5] == 2
    assert capsys.readouterr().err.count("share a name") == 1


def test_an_image_without_objects_is_background(tmp_path):
    assert not mask_of(written(tmp_path)).any()


@pytest.mark.parametrize(
    ("outline", "text"),
    [
        ([[1, 2, 3, 4]], "three points"),
        ([[1, 2, 3, 4, 5, 6, 7]], "three points"),
        ({"size": [9, 9], "counts": [81]}, "9, 9"),
        ({"counts": [320]}, "size"),
        ({"size": [16, 20], "counts": [3, 999]}, "1002 pixels"),
        ([3, 4], "can't be drawn"),
    ],
)
def test_an_outline_that_cant_be_drawn_is_named(tmp_path, outline, text):
    written(tmp_path, region(1, outline, 1, number=42))
    with says("train.json", "annotation 42", text):
        opened(tmp_path).read(0)


@pytest.mark.parametrize(
    ("changes", "texts"),
    [
        ({"annotations": [region(9, SQUARE, 1)]}, ["annotation 1 has category_id 9"]),
        ({"annotations": [region(1, SQUARE, 1, image=8)]}, ["annotation 1 has image_id 8"]),
        ({"annotations": [region(1, [], 1)]}, ["annotation 1 has no segmentation"]),
        ({"annotations": [{"id": 1}]}, ["'image_id' is missing in annotations"]),
        (
            {"images": [{"id": 7, "file_name": "b.png", "height": 1, "width": 1}]},
            ["b.png", "isn't there"],
        ),
        ({"categories": 3}, ["no list 'categories'"]),
        ({"categories": [{"id": 1, "name": "a"}] * 2}, ["two categories"]),
        ({"categories": []}, ["1 names"]),
        ({"categories": [{"id": 1, "name": "a"}, {"id": "b", "name": "b"}]}, ["isn't as COCO"]),
        ({"images": [{"id": 7, "file_name": "a.png", "height": None, "width": 1}]}, ["isn't as COCO"]),
        ({"annotations": [region(1, SQUARE, None)]}, ["isn't as COCO"]),
        ({"annotations": [region(1, SQUARE, 1, image=[7])]}, ["isn't as COCO"]),
        ({"annotations": [7]}, ["isn't as COCO"]),
    ],
)
def test_a_file_that_cant_be_used(tmp_path, changes, texts):
    with says("train.json|data.classes", *texts):
        written(tmp_path)
        content = json.loads((tmp_path / "train.json").read_text())
        (tmp_path / "train.json").write_text(json.dumps({**content, **changes}))
        opened(tmp_path)


def test_what_is_missing_is_named(tmp_path):
    written(tmp_path)
    with says("no split 'val'", "train"):
        coco.build("val", root=tmp_path, annotations={"train": Path("train.json")})
    with says("gone.json", "No such file"):
        opened(tmp_path, annotations={"train": Path("gone.json")})
    with says("no folder", "elsewhere", "data.images"):
        opened(tmp_path, images={"train": Path("elsewhere")})
    (tmp_path / "train.json").write_text("{")
    with says("train.json: not JSON"):
        opened(tmp_path)
    written(tmp_path)
    cv2.imwrite(str(tmp_path / "train/a.png"), np.zeros((20, 16, 3), np.uint8))
    with says("train.json is 20x16", "a.png 16x20"):
        opened(tmp_path).read(0)


def test_opening_decodes_nothing(tmp_path):
    written(tmp_path, region(1, [[0]], 1))
    (tmp_path / "train/a.png").write_bytes(b"")
    assert opened(tmp_path).ids == ["a.png"]


def test_facades():
    """Real polygons, two categories of one name; the pixels as counted by drawing them one by one."""
    root = real("facade-coco")
    data = coco.build("val", root=root, annotations={"val": Path("annotations/val.json")})
    assert len(data.ids) == 12 and len(data.classes) == 12
    assert [name for name in data.classes if "facade" in name] == ["facade (id 0)", "facade (id 3)"]
    sample = data.read(0)
    content = json.loads((root / "annotations/val.json").read_text())
    wanted = np.zeros((1024, 1024), np.uint8)
    first = content["images"][0]
    mine = [a for a in content["annotations"] if a["image_id"] == first["id"]]
    for a in sorted(mine, key=lambda a: -a["area"]):
        lengths = run_lengths.merge(run_lengths.frPyObjects(a["segmentation"], 1024, 1024))
        wanted[run_lengths.decode(lengths) > 0] = a["category_id"] + 1
    assert data.ids[0] == first["file_name"] and (sample.mask == wanted).all()
    assert scan(data, "val").pixels.sum() == 12 * 1024 * 1024
