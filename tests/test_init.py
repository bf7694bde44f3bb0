"""`segtrain init` on datasets as people have them: what it writes trains as written."""

import re
import shutil

import cv2
import numpy as np
import pytest
import tifffile
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
    for key in ("widths", "crop", "epochs", "batch", "class_weights", "classes", "augment"):
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


def test_no_splits_and_masks_beside_their_images(tmp_path):
    """a.jpg and a_mask.png in one folder: a fifth for validation, copies on one side."""
    data = tmp_path / "data"
    for i in range(20):
        image, mask = sample(i)
        write(data / f"{i:02d}.jpg", image)
        write(data / f"{i:02d}_mask.png", mask)
    shutil.copyfile(data / "03.jpg", data / "copy.jpg")
    shutil.copyfile(data / "03_mask.png", data / "copy_mask.png")
    out, text = init(data, tmp_path)
    options = load(out).data.options
    assert load(out).data.name == "list" and "there are no splits" in out.read_text()
    names = {}
    for split in ("train", "val"):
        assert options["files"][split] == f"../config-{split}.csv"
        lines = (tmp_path / f"config-{split}.csv").read_text().splitlines()
        assert lines[0] == "image,mask"
        names[split] = {line.split(".")[0] for line in lines[1:]}
    assert len(names["train"]) + len(names["val"]) == 21 and 4 <= len(names["val"]) <= 6
    assert any({"03", "copy"} <= side for side in names.values())
    before = [(tmp_path / f"config-{split}.csv").read_bytes() for split in names]
    again = tmp_path / "again"
    again.mkdir()
    run("init", data, "--out", again / "config.yaml")
    assert before == [(again / f"config-{split}.csv").read_bytes() for split in names]
    trains(out, tmp_path)


def test_files_without_a_partner_are_told(tmp_path):
    data = tmp_path / "data"
    for i in range(6):
        image, mask = sample(i)
        write(data / f"images/{i}.png", image)
        write(data / f"masks/{i}.png", mask)
    (data / "masks/4.png").unlink()
    _, text = init(data, tmp_path)
    assert "LEFT OUT: 1 images without a partner" in text and "images/4.png" in text


def test_segnets_folders(tmp_path):
    for split in ("train", "val"):
        for i in range(4):
            image, mask = sample(i)
            write(tmp_path / f"data/{split}/{split}{i}.png", image)
            write(tmp_path / f"data/{split}annot/{split}{i}.png", mask)
    out, _ = init(tmp_path / "data", tmp_path)
    assert load(out).data.name == "list" and "names of folders" in out.read_text()
    trains(out, tmp_path)


def test_masks_of_colours_get_a_palette(tmp_path):
    colours = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
    for split in ("train", "val"):
        for i in range(4):
            image, mask = sample(i)
            write_pair(tmp_path / "data" / split, f"{split}{i}", image, colours[mask][..., ::-1])
    (tmp_path / "data" / "label_colors.txt").write_text("255 0 0 circle\n0 255 0\tsquare\n")
    out, _ = init(tmp_path / "data", tmp_path)
    palette = load(out).data.options["palette"]
    assert palette["circle"] == [255, 0, 0] and palette["square"] == [0, 255, 0]
    assert palette["colour 0-0-255"] == [0, 0, 255]
    trains(out, tmp_path)


def test_blurred_masks_of_two_values_get_a_tolerance(tmp_path):
    for split in ("train", "val"):
        for i in range(4):
            image, mask = sample(i)
            soft = cv2.GaussianBlur((mask > 0).astype(np.uint8) * 255, (0, 0), 0.7)
            write_pair(tmp_path / "data" / split, f"{split}{i}", image, soft)
    out, _ = init(tmp_path / "data", tmp_path)
    assert load(out).data.options["tolerance"] == 127
    trains(out, tmp_path)


def test_jpeg_masks_of_two_values_get_a_tolerance(tmp_path):
    for split in ("train", "val"):
        for i in range(4):
            image, mask = sample(i)
            write_pair(tmp_path / "data" / split, f"{i}", image + i, (mask > 0).astype(np.uint8) * 255)
            png = tmp_path / "data" / split / f"masks/{i}.png"
            cv2.imwrite(
                str(png.with_suffix(".jpg")), cv2.imread(str(png)), [cv2.IMWRITE_JPEG_QUALITY, 80]
            )
            png.unlink()
    out, _ = init(tmp_path / "data", tmp_path)
    assert load(out).data.options["tolerance"] == 127
    trains(out, tmp_path)


def test_deep_grey_images_have_one_channel(tmp_path):
    for split in ("train", "val"):
        for i in range(4):
            image, mask = sample(i)
            write_pair(tmp_path / "data" / split, f"{i}", image, mask)
            deep = image[..., 0].astype(np.uint16) * 100 + i
            cv2.imwrite(str(tmp_path / "data" / split / f"images/{i}.png"), deep)
    out, _ = init(tmp_path / "data", tmp_path)
    config = load(out)
    assert config.data.options["channels"] == config.model.in_channels == len(config.data.mean) == 1
    assert ".png is grey" in out.read_text()
    trains(out, tmp_path)


def test_masks_that_hold_nothing_are_told(folder, tmp_path):
    for path in folder.rglob("masks/*.png"):
        cv2.imwrite(str(path), np.zeros((48, 64), np.uint8))
    _, text = init(folder, tmp_path)
    assert "NOTHING BUT THE FIRST CLASS" in text


def test_coco_with_two_categories_of_one_name(tmp_path):
    out, text = init(real("facade-coco"), tmp_path)
    assert "kept apart: facade (id 0), facade (id 3)" in text
    config = load(out)
    assert config.data.name == "coco"
    train = open_split(config.data, "train")
    assert {"facade (id 0)", "facade (id 3)", "window"} <= set(train.classes) and len(train.ids) == 40


def test_voc(tmp_path):
    out, _ = init(real("voc-sample"), tmp_path)
    assert load(out).data.name == "voc"
    assert open_split(load(out).data, "train").classes[1] == "aeroplane"
    assert run("check", out)[0] in (0, 1)


# ---- images of other kinds


def test_deep_images_of_many_bands(tmp_path):
    """16 bits and 5 bands, no splits: channels, depth, mean and std come from the files."""
    rng = np.random.default_rng(0)
    for i in range(10):
        image, mask = sample(i)
        bands = np.concatenate([image, image[..., :2]], axis=2).astype(np.uint16) * 40 + rng.integers(9)
        (tmp_path / "data/images").mkdir(parents=True, exist_ok=True)
        path = tmp_path / f"data/images/{i}.tif"
        tifffile.imwrite(path, bands, photometric="minisblack", planarconfig="contig")
        write(tmp_path / f"data/masks/{i}.png", mask)
    out, _ = init(tmp_path / "data", tmp_path)
    config = load(out)
    assert config.data.options["channels"] == config.model.in_channels == 5
    assert config.data.options["depth"] == 16 and len(config.data.mean) == len(config.data.std) == 5
    train = open_split(config.data, "train")
    values = np.concatenate([train.read(i).image.reshape(-1, 5) for i in range(len(train.ids))])
    assert config.data.mean == pytest.approx(values.mean(axis=0), rel=1e-3)
    assert config.data.std == pytest.approx(values.std(axis=0), rel=1e-2)
    trains(out, tmp_path)


def test_samples_that_cant_be_read_are_told(folder, tmp_path):
    (folder / "train/images/01.png").write_bytes(b"broken")
    out, text = init(folder, tmp_path)
    assert "LEFT OUT: 1 pairs that can't be read" in text and "01.png: not an image" in text
    assert load(out).data.name == "list"
    trains(out, tmp_path)
    for path in tmp_path.glob("*.csv"):
        path.unlink()
    for path in folder.glob("*/masks/*.png"):
        path.write_bytes(b"broken")
    out.unlink()
    assert "not an image" in init(folder, tmp_path, code=2)[1]


@pytest.mark.parametrize("line", ["images/{0}.jpg annotations/{0}.png", "{0}", "./x y/{0}.jpg"])
def test_list_files_tell_the_splits(tmp_path, line):
    """As PaddleSeg has them, with both paths, or with names alone; what no list names is told."""
    for i in range(9):
        image, mask = sample(i)
        write(tmp_path / f"data/images/im {i}.jpg", image)
        write(tmp_path / f"data/annotations/im {i}.png", mask)
    for split, indices in (("train", (0, 2, 4, 6, 1)), ("val", (3, 5))):
        lines = [line.format(f"im {i}") for i in indices]
        (tmp_path / f"data/{split}_list.txt").write_text("\n".join([*lines, "im 99"]) + "\n")
    out, text = init(tmp_path / "data", tmp_path)
    found = {split: open_split(load(out).data, split).ids for split in ("train", "val")}
    assert found["val"] == ["images/im 3.jpg", "images/im 5.jpg"] and len(found["train"]) == 5
    assert "LEFT OUT: 2 pairs in no list" in text and "1 lines of val_list.txt" in text


@pytest.mark.parametrize(
    "images, masks", [("Bilder", "Masken"), ("img_dir/train", "ann_dir/train"), ("x/raw", "x/b")]
)
def test_folders_of_any_names_are_told_by_what_they_hold(tmp_path, images, masks):
    for i in range(6):
        image, mask = sample(i)
        write(tmp_path / f"data/{images}/Präparat {i}.JPG", image)
        write(tmp_path / f"data/{masks}/Präparat {i}.png", mask)
    (tmp_path / f"data/{masks}/Präparat 0.png").write_bytes(b"broken")
    out, text = init(tmp_path / "data", tmp_path)
    assert "6 pairs" in text and "LEFT OUT: 1 pairs" in text and "Präparat 0.png: not an" in text
    assert len(open_split(load(out).data, "train").ids) in (3, 4)


def test_one_image_of_another_kind_or_size_among_many(tmp_path):
    """What most are counts, and the others are left out by name, the first file too."""
    for i in range(12):
        image, mask = sample(i)
        write(tmp_path / f"data/images/{i:02d}.png", image)
        write(tmp_path / f"data/masks/{i:02d}.png", mask[:, :40] if i == 5 else mask)
    tifffile.imwrite(tmp_path / "data/images/00.tif", sample(0)[0].astype(np.uint16) * 257)
    (tmp_path / "data/images/00.png").unlink()
    out, text = init(tmp_path / "data", tmp_path)
    assert "channels" not in load(out).data.options and "LEFT OUT: 2 pairs" in text
    assert "00.tif is 16-bit" in text and "05.png is 40x64" in text


@pytest.mark.parametrize(
    "values, ignore, ids",
    [
        ((0, 128, 255), None, {128: 1, 255: 2}),
        ((0, 1, 255), 255, None),
        ((0, 1, 2, 4), None, None),
    ],
)
def test_255_is_a_class_where_masks_are_shades_of_grey(tmp_path, values, ignore, ids):
    for i in range(6):
        image, mask = sample(i)
        write(tmp_path / f"data/images/{i}.png", image)
        write(tmp_path / f"data/masks/{i}.png", np.array(values, np.uint8)[mask % len(values)])
    out, text = init(tmp_path / "data", tmp_path)
    options = load(out).data.options
    assert options["ignore"] == ignore and ("255 is taken for no class" in text) == bool(ignore)
    assert options.get("label_map") == ids


# ---- signals


def test_ludb(tmp_path):
    out, text = init(real("ludb"), tmp_path)
    config = load(out)
    assert "160 records" in text and config.model.dim == config.model.in_channels == 1
    assert config.data.options["signal"] == ["wave_form"] and config.data.options["rate"] == 250
    assert config.data.options["label"] == "train_label" and len(config.data.options["classes"]) == 4
    assert "not used: time, index, label" in out.read_text()
    assert "1158 to 2205 samples" in out.read_text() and config.data.crop == (1024,)
    assert {len(open_split(config.data, split).ids) for split in ("train", "val")} == {140, 20}
    assert run("check", out)[0] == 0


def record(path, length, seed, columns, form="csv", **more):
    """Humps of classes 3 and 7 in the first column, noise in the second, labels in the third."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(length, int)
    for at in range(20, length - 30, 60):
        labels[at : at + 15] = 3 if at % 120 < 60 else 7
    values = [labels + rng.normal(0, 0.1, length), rng.normal(0, 1, length), labels]
    path.parent.mkdir(parents=True, exist_ok=True)
    if form == "npz":
        np.savez(path, **dict(zip(columns, values)), **more)
        return
    table = {**dict(zip(columns, values)), **more}
    rows = zip(*(np.asarray(column).tolist() for column in table.values()))
    path.write_text("\n".join(",".join(map(str, row)) for row in [list(table), *rows]))


def test_records_without_splits_get_list_files(tmp_path):
    for i in range(12):
        time = 7 + np.arange(300 + i) * 5.0
        extra = {"time_ms": time, "lead": ["II"] * (300 + i), "flag": np.arange(300 + i) % 2}
        extra["label_of_person"] = [i] * (300 + i)
        record(tmp_path / f"data/site/{i:02d}.csv", 300 + i, i, ["ecg", "aux", "label"], **extra)
    shutil.copyfile(tmp_path / "data/site/03.csv", tmp_path / "data/site/copy.csv")
    out, _ = init(tmp_path / "data", tmp_path)
    options, text = load(out).data.options, out.read_text()
    assert options["signal"] == ["ecg", "aux"] and options["label"] == "label"
    assert options["rate"] == 200 and "not used: time_ms, lead, flag, label_of_person" in text
    assert options["label_map"] == {3: 1, 7: 2} and "there are no splits" in text
    lists = {split: (tmp_path / f"config-{split}.txt").read_text().split() for split in ("train", "val")}
    assert len(lists["train"]) + len(lists["val"]) == 13 and 2 <= len(lists["val"]) <= 4
    assert any({"site/03.csv", "site/copy.csv"} <= set(names) for names in lists.values())
    trains(out, tmp_path)


def test_arrays_that_state_their_rate_in_folders_by_other_names(tmp_path):
    for home in ("training", "testing"):
        for i in range(5):
            path = tmp_path / f"data/{home}/{i}.npz"
            record(path, 400, i, ["x", "y", "stage"], "npz", fs=128.0)
    np.savez(tmp_path / "data/about.npz", note=np.zeros(3))
    out, text = init(tmp_path / "data", tmp_path)
    options = load(out).data.options
    assert "LEFT OUT: 1 files" in text and options["rate"] == 128
    assert options["splits"]["train"] == "training" and options["splits"]["val"] == "testing"
    assert options["signal"] == ["x", "y"] and options["label"] == "stage"
    trains(out, tmp_path)


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        (["a", "b", "c"], "no column holds labels"),
        (["label", "b", "c"], "no column holds labels"),
    ],
)
def test_records_without_labels_are_told(tmp_path, columns, says):
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        path = tmp_path / "data" / split / "a.csv"
        path.parent.mkdir(parents=True)
        rows = [columns, *rng.normal(0, 1, (90, 3)).tolist()]
        path.write_text("\n".join(",".join(map(str, row)) for row in rows))
    said = " ".join(init(tmp_path / "data", tmp_path, code=2)[1].split())
    assert says in said and ", ".join(columns) in said


def test_records_that_cant_be_read_are_told(tmp_path):
    for split in ("train", "val"):
        (tmp_path / "data" / split).mkdir(parents=True)
        (tmp_path / "data" / split / "a.npz").write_bytes(b"PK broken")
    assert "not a record that can be read" in init(tmp_path / "data", tmp_path, code=2)[1]
