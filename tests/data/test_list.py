"""Pairs as list files name them."""

from pathlib import Path

import pytest
from conftest import CLASSES

from segtrain.data import list as format_
from segtrain.data.scan import scan
from segtrain.errors import UserError


def opened(root, split="train", **options):
    return format_.build(
        split, **{"root": root, "classes": CLASSES, "files": {"train": Path("train.txt")}, **options}
    )


def says(*texts):
    return pytest.raises(UserError, match="".join(f"(?=.*{t})" for t in texts))


@pytest.mark.parametrize("gap", ["\t", " ", "   "])
def test_two_columns(folder, gap):
    rows = [f"train/images/{i:02d}.png{gap}train/masks/{i:02d}.png" for i in (4, 1)]
    (folder / "train.txt").write_text("\n\n".join(rows) + "\n")
    data = opened(folder)
    assert data.ids == ["train/images/04.png", "train/images/01.png"]
    assert data.read(0).mask.max() < 4 and scan(data, "train").pixels.sum() == 2 * 48 * 64


def test_names_with_blanks_and_paths_from_the_root_of_the_disk(folder):
    (folder / "train/images/00.png").rename(folder / "train/images/my photo.png")
    (folder / "train.txt").write_text(f"{folder}/train/images/my photo.png\ttrain/masks/00.png\n")
    assert opened(folder).read(0).image.shape == (48, 64, 3)


def test_a_table_with_a_header(folder):
    rows = ["photo,site,truth"] + [f"val/images/{i:02d}.png,A,val/masks/{i:02d}.png" for i in range(3)]
    (folder / "all.csv").write_text("\ufeff" + "\r\n".join(rows))
    files = {"files": {"val": Path("all.csv")}}
    data = opened(folder, "val", **files, image="photo", mask="truth")
    assert len(data.ids) == 3 and data.read(2).mask.shape == (48, 64)
    with says("all.csv has no column 'image'", "data.image", "photo"):
        opened(folder, "val", **files)


@pytest.mark.parametrize(
    ("name", "text", "parts"),
    [
        ("train.txt", "\ntrain/images/00.png\n", ["train.txt, line 2: 1 columns", "a tab"]),
        ("train.txt", "a b c\n", ["line 1: 3 columns"]),
        ("train.txt", "no.png no.png\n", ["line 1: no file .*no.png"]),
        ("train.txt", "train/images/00.png train/masks/00.png\n" * 2, ["line 2", "second time"]),
        ("t.csv", "image,mask\n\ntrain/images/00.png,\n", ["t.csv, line 3: no mask"]),
        ("t.csv", "", ["no column 'image'"]),
    ],
)
def test_a_list_that_cant_be_used_names_its_line(folder, name, text, parts):
    (folder / name).write_text(text)
    with says(*parts):
        opened(folder, files={"train": Path(name)})


def test_what_is_missing_is_named(folder):
    with says("no split 'val' in data.files"):
        opened(folder, "val")
    with says("train.txt: No such file"):
        opened(folder)
    (folder / "train.txt").write_bytes(b"\xff\xfe\x00")
    with says("train.txt: not a text file"):
        opened(folder)
