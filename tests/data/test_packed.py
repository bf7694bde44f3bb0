"""Datasets packed into RecordIO: the same samples, at any position, from any process."""

import json
import struct
import threading
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from conftest import CLASSES, real, run
from hypothesis import given, settings
from hypothesis import strategies as st
from mxnet import recordio

from segtrain.config import Data, load
from segtrain.data import packed
from segtrain.data.dataset import open_split
from segtrain.data.loader import open_loader
from segtrain.errors import UserError
from segtrain.pack import pack


def opened(home, split="train", **options):
    return open_split(Data(name="packed", root=home, **options), split)


@pytest.fixture
def home(config_file, tmp_path):
    code, text = run("pack", config_file, "--out", tmp_path / "packed")
    assert code == 0, text
    assert "train: 6 samples" in text and "left out: no split 'test'" in text
    return tmp_path / "packed"


def same(a, b):
    assert list(a.ids) == list(b.ids) and a.classes == b.classes and a.ignore == b.ignore
    for index in range(len(a.ids)):
        for x, y in zip(a.read(index), b.read(index)):
            assert x.dtype == y.dtype and x.shape == y.shape and (x == y).all()


@pytest.mark.parametrize("split", ["train", "val"])
def test_the_samples_are_those_of_the_dataset(home, config_file, split):
    same(opened(home, split), open_split(load(config_file).data, split))


def test_mxnet_reads_what_is_in_it(home, folder):
    """Each record is an image file of the dataset, to the byte; the mask comes behind it."""
    reader = recordio.MXIndexedRecordIO(str(home / "train.idx"), str(home / "train.rec"), "r")
    for index in (4, 0, 5):
        header, content = recordio.unpack(reader.read_idx(index))
        file = (folder / f"train/images/{index:02d}.png").read_bytes()
        assert header.id == index and content[: header.id2] == file
        _, image = recordio.unpack_img(reader.read_idx(index))
        assert (image[..., ::-1] == opened(home).read(index).image).all()


def test_a_run_is_the_same_from_the_pack(home, config_file, tmp_path):
    for name, config in (("plain", config_file), ("fast", home / "config.yaml")):
        code, text = run("train", config, "data.workers=2", "--out", tmp_path / name)
        assert code == 0, text
    plain, fast = (tmp_path / name / "checkpoints/last/model.params" for name in ("plain", "fast"))
    assert plain.read_bytes() == fast.read_bytes()
    code, text = run("eval", tmp_path / "fast")
    assert code == 0, text
    assert run("check", home / "config.yaml")[0] == 0
    assert run("show", home / "config.yaml")[0] == 0


@pytest.mark.parametrize(("channels", "depth"), [(1, 8), (3, 16), (5, 16), (2, 32), (4, 8)])
def test_channels_and_depth_are_kept(tmp_path, channels, depth):
    rng = np.random.default_rng(0)
    dtype = {8: np.uint8, 16: np.uint16, 32: np.float32}[depth]
    for split, ending in (("train", "tif"), ("val", "npy")):
        image = (rng.random((20, 30, channels)) * 250).astype(dtype)
        for kind in ("images", "masks"):
            (tmp_path / "data" / split / kind).mkdir(parents=True)
        path = tmp_path / "data" / split / f"images/a.{ending}"
        if ending == "npy":
            np.save(path, image)
        else:
            tifffile.imwrite(path, image.squeeze(), planarconfig="contig", photometric="minisblack")
        mask = rng.integers(0, 4, (20, 30), np.uint8)
        assert cv2.imwrite(str(tmp_path / "data" / split / "masks/a.png"), mask)
    config = tmp_path / "config.yaml"
    config.write_text(
        f"model: {{in_channels: {channels}}}\ndata: {{name: folder, root: {tmp_path / 'data'}, classes: "
        f"{CLASSES}, channels: {channels}, depth: {depth}, mean: {[100.0] * channels}, "
        f"std: {[50.0] * channels}}}\n"
    )
    home = tmp_path / "packed"
    code, text = run("pack", config, "--out", home)
    assert code == 0, text
    for split in ("train", "val"):
        same(open_split(load(home / "config.yaml").data, split), open_split(load(config).data, split))
    if depth != 8 or channels != 3:
        with pytest.raises(UserError, match=rf"set data.channels={channels}, data.depth={depth}"):
            packed.build("train", root=home)


def test_masks_become_class_ids_whatever_they_were(folder, tmp_path):
    for path in folder.glob("*/masks/*"):
        mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert cv2.imwrite(str(path), np.array([7, 40, 200, 13], np.uint8)[mask])
    config = tmp_path / "config.yaml"
    config.write_text(
        f"data: {{name: folder, root: {folder}, classes: [a, b, c], ignore: 13, "
        "label_map: {7: 0, 40: 1, 200: 2}}"
    )
    assert run("pack", config, "--out", tmp_path / "packed")[0] == 0
    found = opened(tmp_path / "packed")
    assert found.classes == ["a", "b", "c"] and found.ignore == 13
    same(found, open_split(load(config).data, "train"))


def test_a_published_format(tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text(f"data: {{name: voc, root: {real('voc-sample') / 'VOC2012'}}}")
    code, text = run("pack", config, "--out", tmp_path / "packed")
    assert code == 0, text
    for split in ("train", "val"):
        same(opened(tmp_path / "packed", split), open_split(load(config).data, split))


def test_a_dataset_without_files_is_packed_as_pngs(tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text("data: {name: shapes, size: [40, 48], train: 5, val: 3, test: 2}")
    assert set(pack(load(config), tmp_path / "packed")["splits"]) == {"train", "val", "test"}
    for split in ("train", "test"):
        same(opened(tmp_path / "packed", split), open_split(load(config).data, split))


def test_loader_processes_and_threads_read_at_once(home):
    dataset, data = opened(home), Data(name="packed", root=home, crop=(32, 32), augment=["flip"])
    found = []
    for workers in (0, 3):
        with open_loader(dataset, data, 3, 4, 0, workers) as loader:
            found.append([b.images.copy() for epoch in range(2) for b in loader.epoch(epoch)])
    assert all((a == b).all() for a, b in zip(*found))
    wanted, wrong = [dataset.read(i).image for i in range(6)], []

    def look(seed):
        for index in np.random.default_rng(seed).integers(0, 6, 200):
            if not (dataset.read(int(index)).image == wanted[index]).all():
                wrong.append(index)

    threads = [threading.Thread(target=look, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.binary(max_size=9), st.just(struct.pack("<I", 0xCED7230A))), max_size=9))
def test_records_that_hold_the_magic_number_are_read_as_mxnet_does(tmp_path_factory, pieces):
    home = tmp_path_factory.mktemp("rec")
    content = bytes(packed.HEADER.size) + b"x" + b"".join(pieces)
    writer = recordio.MXIndexedRecordIO(str(home / "a.idx"), str(home / "a.rec"), "w")
    for index in range(2):
        writer.write_idx(index, content)
    writer.close()
    reader = recordio.MXIndexedRecordIO(str(home / "a.idx"), str(home / "a.rec"), "r")
    starts = packed._starts(home / "a.idx")
    stored = (home / "a.rec").read_bytes()[starts[1] :]
    assert packed._joined(stored, Path("a.rec")) == content == reader.read_idx(1)


def test_many_entries_take_little_memory(tmp_path):
    count = 200_000
    places = np.arange(count) * 64
    text = np.char.add(
        np.char.add(np.char.mod("%d\t", np.arange(count)), np.char.mod("%d", places)), "\n"
    )
    (tmp_path / "train.idx").write_text("".join(text))
    (tmp_path / "train.txt").write_text("".join(f"folder/picture-{i:07d}\n" for i in range(count)))
    with open(tmp_path / "train.rec", "wb") as file:
        file.truncate(count * 64)
    about = {"format": 1, "classes": CLASSES, "ignore": 255, "channels": 3, "depth": 8}
    (tmp_path / "dataset.json").write_text(json.dumps({**about, "splits": {"train": count}}))
    tracemalloc.start()
    dataset = opened(tmp_path)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(dataset.ids) == count and dataset.ids[-1] == "folder/picture-0199999"
    assert held < 60 * count


# ---- what goes wrong


def test_what_cant_be_packed_leaves_nothing(config_file, folder, tmp_path):
    (folder / "train/images/03.png").write_bytes(b"no image")
    code, text = run("pack", config_file, "--out", tmp_path / "packed")
    assert code == 2 and "03.png: not an image" in text
    assert not [path for path in tmp_path.iterdir() if "packed" in path.name]
    (tmp_path / "taken").mkdir()
    code, text = run("pack", config_file, "--out", tmp_path / "taken")
    assert code == 2 and "exists: give another --out" in text


def test_a_full_disk_is_told(config_file, tmp_path, monkeypatch):
    """MXNet says nothing when the last of a file can't be written: the file is then too short."""
    close = recordio.MXIndexedRecordIO.close

    def cut(self):
        close(self)
        path = Path(self.uri.value.decode())
        if path.exists() and self.writable:
            path.write_bytes(path.read_bytes()[:-100])

    monkeypatch.setattr(recordio.MXIndexedRecordIO, "close", cut)
    code, text = run("pack", config_file, "--out", tmp_path / "packed")
    assert code == 2 and "the disk is full" in text and not (tmp_path / "packed").exists()


def test_signals_are_refused(tmp_path):
    code, text = run(
        "pack", "configs/ludb-unet1d.yaml", f"data.root={real('ludb')}", "--out", tmp_path / "p"
    )
    assert code == 2 and "pack is for images" in text


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("train.rec", lambda content: content[:-500], "05: the record is damaged"),
        ("train.rec", lambda content: content[:100], "don't belong together"),
        ("train.rec", lambda content: bytes(1000) + content[1000:], "00: the record is damaged"),
        ("train.idx", lambda content: content[:-20], "damaged|don't belong together"),
        ("train.idx", lambda content: b"x" + content, "don't belong together"),
        ("train.idx", lambda content: content.replace(b"3\t", b"9\t"), "train.idx is damaged"),
        ("train.txt", lambda content: content + b"one more\n", "don't belong together"),
        ("dataset.json", lambda content: b"{}", "pack it again"),
        ("dataset.json", lambda content: b"[1", "pack it again"),
        (
            "dataset.json",
            lambda content: content.replace(b'"format": 1', b'"format": 9'),
            "pack it again",
        ),
    ],
)
def test_damage_is_told_in_one_line(home, name, change, says):
    path = home / name
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UserError, match=says):
        dataset = opened(home)
        for index in range(6):
            dataset.read(index)


def test_what_is_missing_is_told(home, tmp_path):
    with pytest.raises(UserError, match="no split 'test'.*train, val"):
        opened(home, "test")
    with pytest.raises(UserError, match="data.root is a folder of segtrain pack's"):
        opened(tmp_path)
    (home / "train.txt").unlink()
    with pytest.raises(UserError, match="train.txt: No such file.*pack it again"):
        opened(home)
