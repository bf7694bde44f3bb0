"""`segtrain check` on data with planted faults: it finds each, and nothing else."""

import json
import shutil

import cv2
import numpy as np
import pytest
from conftest import CLASSES, real, run
from PIL import Image

from segtrain.data import shapes
from segtrain.data.look import copies_of, fingerprint


@pytest.fixture
def config(tmp_path):
    """Ten training and four validation pairs, larger than the crop, all classes in both."""
    for split, count in (("train", 10), ("val", 4)):
        source = shapes.build(split, size=(96, 96))
        for index in range(count):
            image, mask = source.read(index)
            mask[:4, :4], mask[:4, 4:8], mask[:4, 8:12] = 1, 2, 3
            _write(tmp_path / "data" / split, f"{index:02d}", image, mask)
    path = tmp_path / "config.yaml"
    path.write_text(
        f"""
model: {{name: unet, widths: [4, 8]}}
data: {{name: folder, root: {tmp_path / "data"}, classes: {CLASSES}, crop: [64, 64]}}
train: {{batch: 4}}
"""
    )
    return path


def _write(home, name, image, mask):
    for kind, pixels in (("images", image[..., ::-1]), ("masks", mask)):
        (home / kind).mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(home / kind / f"{name}.png"), pixels)


def findings(config, code, *overrides):
    out = config.parent / "findings.json"
    found, text = run("check", config, *overrides, "--json", out)
    assert found == code, text
    result = json.loads(out.read_text())
    assert result["passed"] == (code == 0)
    return result["findings"], text


def test_sound_data_passes_and_is_described(config, tmp_path):
    found, text = findings(config, 0)
    assert found == [] and "nothing would spoil the training" in text
    assert "train: 10 images, 96x96" in " ".join(text.split())
    code, text = run("check", config, "--sheet", tmp_path / "sheet.png")
    assert code == 0 and cv2.imread(str(tmp_path / "sheet.png")).shape[0] > 3 * 180


def test_ten_faults_planted_in_camvid(tmp_path):
    data = tmp_path / "camvid"
    shutil.copytree(real("camvid"), data)
    train, val = sorted((data / "train/images").iterdir()), sorted((data / "val/images").iterdir())

    def mask(image):
        return image.parents[1] / "masks" / image.name

    def change(path, function):
        pixels = np.array(Image.open(path))
        assert cv2.imwrite(str(path), function(pixels))

    planted = {}
    shutil.copyfile(train[0], val[0])
    planted["leak, the same"] = val[0]
    again = cv2.imencode(".jpg", cv2.imread(str(train[10])), [cv2.IMWRITE_JPEG_QUALITY, 60])[1]
    val[10].with_suffix(".jpg").write_bytes(again.tobytes())
    val[10].unlink()
    planted["leak, saved anew"] = val[10].with_suffix(".jpg")
    train[20].write_bytes(train[20].read_bytes()[:20_000])
    planted["truncated"] = train[20]
    change(mask(train[30]), lambda m: cv2.resize(m, (240, 180), interpolation=cv2.INTER_NEAREST))
    planted["resized mask"] = train[30]
    change(mask(train[40]), lambda m: np.stack([m * 20, m * 3, 255 - m], axis=-1))
    planted["colour mask"] = train[40]
    change(mask(train[50]), lambda m: np.where(np.arange(len(m))[:, None] < 3, 12, m).astype(np.uint8))
    planted["value 12"] = train[50]
    change(mask(train[60]), lambda m: np.full_like(m, 11))
    planted["empty mask"] = train[60]
    train[70].unlink()
    planted["mask without image"] = mask(train[70])
    change(mask(train[80]), lambda m: m.astype(np.uint16))
    planted["16-bit mask"] = train[80]
    for image in train:
        if image.exists() and image not in (train[40],):
            pixels = np.array(Image.open(mask(image)))
            if (pixels == 10).any():
                cv2.imwrite(str(mask(image)), np.where(pixels == 10, 11, pixels))

    config = "configs/camvid-unet.yaml"
    out = tmp_path / "findings.json"
    code, text = run("check", config, f"data.root={data}", "--json", out)
    assert code == 1
    found = json.loads(out.read_text())["findings"]
    told = {
        "leak, the same": ("leak", "is the same image as"),
        "leak, saved anew": ("leak", "is a copy, saved anew, of"),
        "truncated": ("sample", "can be decoded"),
        "resized mask": ("sample", "is 240x180 and its image"),
        "colour mask": ("sample", "colour mask"),
        "value 12": ("sample", "holds 12 (0.83% of its pixels)"),
        "empty mask": ("empty mask", "nothing but ignored pixels"),
        "mask without image": ("pair", "a mask without an image"),
        "16-bit mask": ("mask kind", "of kind I;16"),
    }
    assert len(found) == 10, [f["why"] for f in found]
    for fault, (kind, words) in told.items():
        hit = [f for f in found if f["kind"] == kind and words in f["why"]]
        assert len(hit) == 1 and str(planted[fault]) in hit[0]["files"], fault
        assert hit[0]["fix"]
    absent = [f for f in found if f["kind"] == "class"]
    assert (
        len(absent) == 1
        and "no training mask holds 'bicyclist', and there are some in val" in (absent[0]["why"])
    )


def test_many_files_with_one_fault_are_one_finding(config):
    for path in (config.parent / "data/train/masks").iterdir():
        mask = cv2.imread(str(path), 0)
        cv2.imwrite(str(path), np.where(mask == 1, 200, mask))
    found, text = findings(config, 1)
    sample = [f for f in found if f["kind"] == "sample"]
    assert len(sample) == 1 and len(sample[0]["files"]) == 10
    assert "holds 200" in sample[0]["why"] and "data.label_map={200: CLASS}" in sample[0]["why"]
    assert "and 9 more like it" in text.replace("\n", " ") and "and 7 more (--json" in text


def test_copies_within_a_split_are_worth_a_look(config):
    images = config.parent / "data/train/images"
    shutil.copyfile(images / "00.png", images / "01.png")
    found, text = findings(config, 0)
    assert [f["kind"] for f in found] == ["duplicate"] and "1 worth a look" in text


def test_copies_among_many_are_those_that_each_pair_tells():
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (600, 32, 32, 1)).astype(np.uint8)
    images[300], images[599], images[260] = images[7], images[7], images[259]
    images[590] = np.clip(images[580].astype(int) + 1, 0, 255)
    found = list(copies_of([fingerprint(image) for image in images]))
    assert found == [(259, 260, True), (7, 300, True), (580, 590, False), (7, 599, True)]


def test_flat_images_are_no_copies_of_one_another(config):
    for index, grey in enumerate((10, 200)):
        path = config.parent / f"data/train/images/{index:02d}.png"
        cv2.imwrite(str(path), np.full((96, 96, 3), grey, np.uint8))
    assert findings(config, 0)[0] == []


@pytest.mark.parametrize(
    ("override", "kind", "code", "says"),
    [
        ("data.crop=[63, 64]", "network", 1, "write data.crop=[64, 64]"),
        ("data.crop=[128, 128]", "size", 0, "at most [96, 96]"),
        ("model.name=unett", "network", 1, "did you mean unet"),
        ("train.batch=11", "batch", 0, "there are 10 training images"),
        ("data.root=nowhere", "split", 1, "no folder"),
    ],
)
def test_the_config_against_the_data(config, override, kind, code, says):
    found, _ = findings(config, code, override)
    assert {f["kind"] for f in found} == {kind}
    assert says in found[0]["why"] + found[0]["fix"]


def test_a_class_missing_in_val_leaves_the_score(config):
    for path in (config.parent / "data/val/masks").iterdir():
        mask = cv2.imread(str(path), 0)
        cv2.imwrite(str(path), np.where(mask == 2, 0, mask))
    found, _ = findings(config, 0)
    assert [(f["kind"], f["split"]) for f in found] == [("class", "val")]


def test_what_stops_the_check_stops_the_training_too(config):
    (config.parent / "data/val/images/02.png").write_bytes(b"no picture")
    found, _ = findings(config, 1)
    code, text = run("train", config, "--out", config.parent / "run")
    assert code == 2 and found[0]["why"].split(": ")[1] in text.replace("\n", " ")


def test_augmented_crops_as_a_picture(config, tmp_path):
    out = tmp_path / "crops.png"
    steps = "data.augment=[flip, elastic(4), cutout(0.3)]"
    code, text = run("show", config, steps, "--augment", out)
    assert code == 0 and "elastic(4)" in text
    assert cv2.imread(str(out)).shape[1] == 6 * 244


def test_a_class_that_is_nowhere_is_worth_a_look(config):
    found, _ = findings(config, 0, f"data.classes={[*CLASSES, 'star', 'moon']}")
    (finding,) = [finding for finding in found if finding["kind"] == "class"]
    assert "no mask of any split holds star, moon" in finding["why"] and not finding["error"]


def test_augmentation_that_cant_be_made_is_told(config):
    found, _ = findings(config, 1, "data.augment=[flip, twist(3)]")
    assert [f["kind"] for f in found if f["error"]] == ["augment"] and "twist" in found[0]["why"]
