"""A folder per sample, a mask per object."""

import cv2
import numpy as np
import pytest

from segtrain.data import instances
from segtrain.data.scan import scan
from segtrain.errors import UserError


def says(*texts):
    return pytest.raises(UserError, match="".join(f"(?=.*{t})" for t in texts))


@pytest.fixture
def root(tmp_path):
    for name, objects in (("b3", 2), ("a1", 1), ("c0", 0)):
        home = tmp_path / "train" / name
        for part in ("images", "masks"):
            (home / part).mkdir(parents=True)
        cv2.imwrite(str(home / f"images/{name}.png"), np.full((8, 10, 4), 200, np.uint8))
        for number in range(objects):
            mask = np.zeros((8, 10), np.uint8)
            mask[number : number + 2, :5] = 255
            cv2.imwrite(str(home / f"masks/{number}.png"), mask)
    return tmp_path


def test_the_masks_are_united(root):
    data = instances.build("train", root=root)
    assert data.ids == ["a1", "b3", "c0"] and data.classes == ["background", "object"]
    assert [int(data.read(i).mask.sum()) for i in range(3)] == [10, 15, 0]
    assert data.read(0).image.shape == (8, 10, 3)
    assert scan(data, "train").pixels.sum(axis=0).tolist() == [240 - 25, 25]
    assert data.name(1).endswith("b3/images/b3.png")


def test_splits_by_folder_or_list(root):
    (root / "train").rename(root / "stage1")
    assert len(instances.build("train", root=root, splits={"train": "stage1"}).ids) == 3
    (root / "val.txt").write_text("stage1/c0\nstage1/a1\n")
    assert instances.build("val", root=root).ids == ["stage1/a1", "stage1/c0"]
    with says("no split 'test'", "neither a folder test/ nor test.txt"):
        instances.build("test", root=root)


def test_what_is_wrong_is_named(root):
    with says("3 names; instances have two"):
        instances.build("train", root=root, classes=["a", "b", "c"])
    cv2.imwrite(str(root / "train/a1/masks/7.png"), np.zeros((9, 9), np.uint8))
    with says("7.png is 9x9", "a1.png 10x8"):
        instances.build("train", root=root).read(0)
    cv2.imwrite(str(root / "train/b3/masks/8.jpg"), np.zeros((8, 10), np.uint8))
    with says("8.jpg: JPEG blurs"):
        instances.build("train", root=root)
    (root / "train/a1/images/more.png").write_bytes(b"")
    with says("a1/images holds 2 images"):
        instances.build("train", root=root)
    (root / "train/c0/masks").rmdir()
    (root / "train/a1/images/more.png").unlink()
    (root / "train/b3/masks/8.jpg").unlink()
    with says("no folder .*c0/masks"):
        instances.build("train", root=root)
