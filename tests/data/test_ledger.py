"""What is known of files that didn't change isn't found out again; all else is."""

import json
import os
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
from conftest import CLASSES, run, write_pair

from segtrain.config import Data, load
from segtrain.data import ahead, ledger, shapes
from segtrain.data.cache import home
from segtrain.data.dataset import open_split
from segtrain.data.scan import scan
from segtrain.data.survey import survey
from segtrain.errors import UserError


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGTRAIN_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def data(folder):
    age(folder)
    return Data(name="folder", root=folder, classes=CLASSES)


def age(home):
    """Make the files so old that their time stamps tell of each later change."""
    for path in home.rglob("*"):
        then = path.stat().st_mtime - 100
        os.utime(path, (then, then))


def scanned(data, monkeypatch, look=scan):
    """The result of a scan, and the samples that were read for it."""
    dataset, read = open_split(data, "train"), []
    own = dataset.read

    def counted(index):
        read.append(dataset.ids[index])
        return own(index)

    monkeypatch.setattr(dataset, "read", counted)
    return look(dataset, "train", data), sorted(read)


def same(a, b):
    assert (a.pixels == b.pixels).all() and a.sizes == b.sizes


def test_a_look_ahead_leaves_nothing_to_read(data, monkeypatch):
    with ahead.looking(data):
        pass
    result, read = scanned(data, monkeypatch)
    assert not read and result.pixels.sum() == 6 * 48 * 64


def test_a_look_ahead_leaves_errors_to_the_scan(data, monkeypatch, capfd):
    damaged = data.options["root"] / "train/images/03.png"
    damaged.write_bytes(damaged.read_bytes()[:100])
    with ahead.looking(data):
        pass
    assert "03.png" not in "".join(capfd.readouterr())
    with pytest.raises(UserError, match="03.png"):
        scanned(data, monkeypatch)


def test_the_second_scan_reads_nothing_and_counts_the_same(data, monkeypatch):
    first, read = scanned(data, monkeypatch)
    assert len(read) == 6 and first.pixels.sum() == 6 * 48 * 64
    again, read = scanned(data, monkeypatch)
    assert not read
    same(first, again)
    for index, counts in enumerate(again.pixels):
        mask = open_split(data, "train").read(index).mask
        assert (np.bincount(mask.ravel(), minlength=4) == counts).all()


def test_only_what_changed_is_read_again(data, folder, monkeypatch):
    scanned(data, monkeypatch)
    mask = folder / "train/masks/02.png"
    assert cv2.imwrite(str(mask), np.full((48, 64), 3, np.uint8))
    os.utime(mask, (1e9, 1e9))
    (folder / "train/images/04.png").touch()
    write_pair(folder / "train", "00-new", *shapes.build("val", size=(40, 40)).read(0))
    for kind in ("images", "masks"):
        (folder / f"train/{kind}/05.png").unlink()
    found, read = scanned(data, monkeypatch)
    assert read == ["00-new", "02", "04"]
    assert found.sizes[1] == (40, 40) and found.pixels[3].tolist() == [0, 0, 0, 48 * 64]
    again, read = scanned(data, monkeypatch)
    assert read == ["00-new", "04"]  # which might have changed once more within their time stamps
    same(found, again)


def test_files_of_this_second_are_not_trusted(data, folder, monkeypatch):
    """Two writes within a tick of the file system's clock leave one time stamp."""
    for path in folder.rglob("*.png"):
        path.touch()
    scanned(data, monkeypatch)
    path = folder / "train/masks/01.png"
    before, size = path.stat(), len(path.read_bytes())
    mask = np.zeros((48, 64), np.uint8)
    mask[0] = 1
    content = cv2.imencode(".png", mask)[1].tobytes()
    path.write_bytes(content[: max(size, len(content))].ljust(size, b"\0"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    found, read = scanned(data, monkeypatch)
    assert len(read) == 6 and found.pixels[1].tolist() == [47 * 64, 64, 0, 0]


def test_other_classes_and_labels_are_looked_at_anew(data, monkeypatch):
    scanned(data, monkeypatch)
    other = Data(**{**data.model_dump(), "label_map": {1: 0}})
    found, read = scanned(other, monkeypatch)
    assert len(read) == 6 and found.pixels[:, 1].sum() == 0
    fed = Data(
        **{**data.model_dump(), "crop": [8, 8], "augment": ["flip"], "cache": "ram", "mean": [1.0]}
    )
    assert not scanned(fed, monkeypatch)[1]


def test_a_change_of_cocos_json_is_seen(tmp_path, monkeypatch):
    root = tmp_path / "coco"
    (root / "train").mkdir(parents=True)
    assert cv2.imwrite(str(root / "train/a.png"), np.zeros((20, 20, 3), np.uint8))

    def write(width):
        box = [[0, 0, width, 0, width, 10, 0, 10]]
        area = {"id": 1, "image_id": 1, "category_id": 1, "area": 1, "segmentation": box}
        content = {
            "images": [{"id": 1, "file_name": "a.png", "height": 20, "width": 20}],
            "annotations": [area],
            "categories": [{"id": 1, "name": "box"}],
        }
        (root / "train.json").write_text(json.dumps(content))
        age(root)

    data = Data(name="coco", root=root, annotations={"train": "train.json"})
    for width in (5, 8):
        write(width)
        os.utime(root / "train.json", (width, width))
        assert scanned(data, monkeypatch)[0].pixels.tolist() == [[400 - 10 * width, 10 * width]]


def test_check_and_train_share_it(data, monkeypatch):
    scanned(data, monkeypatch)
    found, read = scanned(data, monkeypatch, survey)
    assert not read and not found.problems
    dataset = open_split(data, "train")
    for index, look in enumerate(found.looks):
        image, mask = dataset.read(index)
        assert look.name == dataset.name(index) and look.size == mask.shape and look.mask_mode == "L"
        assert look.mean == pytest.approx(image.mean(axis=(0, 1)))
        assert look.square == pytest.approx(np.square(image.astype(float)).mean(axis=(0, 1)))


def test_a_second_check_finds_the_same(config_file, folder, tmp_path):
    (folder / "train/masks/01.png").write_bytes(b"broken")
    image = cv2.imread(str(folder / "train/images/00.png"))
    assert cv2.imwrite(str(folder / "val/images/00.png"), image)
    age(folder)
    results = []
    for name in ("a.json", "b.json"):
        assert run("check", config_file, "--json", tmp_path / name)[0] == 1
        results.append(json.loads((tmp_path / name).read_text()))
    assert results[0] == results[1]
    assert {"leak", "sample"} <= {finding["kind"] for finding in results[0]["findings"]}


def test_what_was_read_before_an_error_is_kept(data, folder, monkeypatch):
    (folder / "train/images/04.png").write_bytes(b"broken")
    for _ in range(2):
        with pytest.raises(UserError, match=r"04\.png: not an image"):
            scanned(data, monkeypatch)
    write_pair(folder / "train", "04", *shapes.build("train", size=(48, 64)).read(4))
    _, read = scanned(data, monkeypatch)
    assert {"04"} <= set(read) <= {"04", "05"}


def test_a_damaged_ledger_is_made_anew(data, monkeypatch):
    first, _ = scanned(data, monkeypatch)
    (path,) = home().glob("*.looks")
    for content in (b"", b"\x93NUMPY", path.read_bytes()[:300], b"x" * 5000):
        path.write_bytes(content)
        found, read = scanned(data, monkeypatch)
        assert len(read) == 6
        same(first, found)


def test_without_a_place_for_it_everything_works(data, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SEGTRAIN_CACHE", str(tmp_path / "file" / "cache"))
    assert len(scanned(data, monkeypatch)[1]) == len(scanned(data, monkeypatch)[1]) == 6

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setenv("SEGTRAIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "posix_fallocate", full)
    same(scanned(data, monkeypatch)[0], scan(open_split(data, "train"), "train"))
    assert not list(home().iterdir())


def test_those_used_least_go_where_there_are_too_many(data, monkeypatch):
    scanned(data, monkeypatch)
    (first,) = home().glob("*.looks")
    monkeypatch.setattr(ledger, "MOST", 2.5 * first.stat().st_size)
    others = []
    for raw in range(10, 15):
        os.utime(first)
        scanned(Data(**{**data.model_dump(), "label_map": {raw: 0}}), monkeypatch)
        others = [path for path in home().glob("*.looks") if path != first]
        for path in others:
            os.utime(path, (path.stat().st_mtime - 50,) * 2)
    assert first.exists() and len(others) == 2


def test_processes_that_scan_at_once_agree(config_file, folder):
    age(folder)
    code = (
        "import sys; from pathlib import Path; from segtrain import config\n"
        "from segtrain.data.dataset import open_split; from segtrain.data.scan import scan\n"
        "data = config.load(Path(sys.argv[1])).data\n"
        "for _ in range(5): census = scan(open_split(data, 'train'), 'train', data)\n"
        "print(census.pixels.tolist())"
    )
    command = [sys.executable, "-c", code, str(config_file)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    outputs = {process.communicate()[0] for process in started}
    data = load(config_file).data
    assert outputs == {f"{scan(open_split(data, 'train'), 'train').pixels.tolist()}\n"}
    assert [path.suffix for path in home().iterdir()] == [".looks"]


def test_clear_removes_it(data, monkeypatch):
    scanned(data, monkeypatch)
    assert list(home().iterdir())
    assert run("cache", "clear")[0] == 0
    assert not list(home().iterdir())


def test_a_start_is_quick_with_many_files(tmp_path):
    """Two thousand pairs that are known take a fraction of a second, whatever is in them."""
    for kind in ("images", "masks"):
        (tmp_path / "train" / kind).mkdir(parents=True)
    image = cv2.imencode(".png", np.arange(64, dtype=np.uint8).reshape(8, 8) % 2)[1].tobytes()
    for kind in ("images", "masks"):
        for i in range(2000):
            (tmp_path / "train" / kind / f"{i:04d}.png").write_bytes(image)
    age(tmp_path)
    data = Data(name="folder", root=tmp_path, classes=["a", "b"])
    dataset, times = open_split(data, "train"), []
    for _ in range(2):
        begun = time.perf_counter()
        assert scan(dataset, "train", data).pixels.sum() == 2000 * 64
        times.append(time.perf_counter() - begun)
    assert times[1] < times[0] / 4
