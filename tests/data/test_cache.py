"""Decoded samples that are kept: the same bytes, once decoded, whoever asks."""

import cv2
import pytest
from conftest import CLASSES, run

from segtrain.config import Data
from segtrain.data import cache
from segtrain.data.cache import cached
from segtrain.data.dataset import open_split
from segtrain.data.loader import open_loader
from segtrain.data.scan import scan
from segtrain.errors import UserError


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGTRAIN_CACHE", str(tmp_path / "cache"))


def opened(folder, how, **options):
    data = Data(name="folder", root=folder, classes=CLASSES, cache=how, crop=[32, 32], **options)
    dataset = open_split(data, "train")
    return cached(dataset, data, scan(dataset, "train").sizes, 3), data


def same(dataset, other):
    return all(
        (a == b).all() for i in range(len(dataset.ids)) for a, b in zip(dataset.read(i), other.read(i))
    )


@pytest.mark.parametrize("how", ["ram", "disk"])
def test_the_samples_are_those_of_the_dataset(folder, how):
    plain, kept = opened(folder, "none")[0], opened(folder, how)[0]
    for _ in range(2):
        assert same(plain, kept)
    assert kept.classes == CLASSES and kept.ids == plain.ids and kept.name(0) == plain.name(0)
    with pytest.raises(ValueError, match="read-only"):
        kept.read(0).image[0, 0, 0] = 1


@pytest.mark.parametrize("how", ["ram", "disk"])
def test_each_file_is_decoded_once(folder, how):
    kept = opened(folder, how)[0]
    images = [kept.read(i).image.copy() for i in range(len(kept.ids))]
    for path in (folder / "train/images").iterdir():
        path.unlink()
    assert all((kept.read(i).image == image).all() for i, image in enumerate(images))


def test_the_disk_keeps_them_from_run_to_run_while_no_file_changes(folder, monkeypatch):
    first = opened(folder, "disk")[0]
    for i in range(len(first.ids)):
        first.read(i)
    again = opened(folder, "disk")[0]
    monkeypatch.setattr(again._dataset, "read", None)
    assert same(first, again)
    path = folder / "train/images/00.png"
    cv2.imwrite(str(path), 255 - cv2.imread(str(path)))
    changed = opened(folder, "disk")[0]
    assert not (changed.read(0).image == first.read(0).image).all()
    other = opened(folder, "disk", label_map={3: 0})[0]
    assert not same(first, other)
    code, text = run("cache", "clear")
    assert code == 0 and "freed" in text and not list(cache.home().glob("*"))


@pytest.mark.parametrize("how", ["ram", "disk"])
def test_workers_share_it_and_batches_do_not_change(folder, how):
    def batches(how, workers):
        dataset, data = opened(folder, how)
        with open_loader(dataset, data, 3, 4, seed=0, workers=workers) as loader:
            return [b.images.copy() for epoch in range(2) for b in loader.epoch(epoch)], dataset

    plain, _ = batches("none", 0)
    for workers in (0, 2):
        kept, dataset = batches(how, workers)
        assert all((a == b).all() for a, b in zip(plain, kept))
        assert dataset._whole.all()


def test_what_was_not_whole_is_decoded_again(folder):
    kept = opened(folder, "disk")[0]
    expected = kept.read(0).image.copy()
    kept._whole[0] = 0
    kept._images[: 64 * 48] = 0
    assert (kept.read(0).image == expected).all()


def test_want_of_room_is_told_before(folder, monkeypatch):
    monkeypatch.setattr(cache.memory, "available", lambda: 10_000)
    with pytest.raises(UserError, match="memory has .* write data.cache=disk"):
        opened(folder, "ram")
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(UserError, match="write data.cache=none"):
        opened(folder, "disk")


def test_a_run_is_the_same_with_any_cache(config_file, tmp_path):
    sums = set()
    for how in ("none", "ram", "disk", "disk"):
        out = tmp_path / f"run-{len(list(tmp_path.glob('run*')))}"
        code, text = run("train", config_file, f"data.cache={how}", "--out", out)
        assert code == 0, text
        sums.add((out / "checkpoints/last/model.params").read_bytes())
    assert len(sums) == 1


def test_another_number_of_channels_is_told(folder):
    data = Data(name="folder", root=folder, classes=CLASSES, cache="ram")
    dataset = open_split(data, "train")
    kept = cached(dataset, data, scan(dataset, "train").sizes, 4)
    with pytest.raises(UserError, match="3 channels, and the network takes 4: set model.in_channels"):
        kept.read(0)
