"""Records of signals are read as they are, or refused in one line; their crops are reproducible."""

import mxnet as mx
import numpy as np
import pytest
from conftest import real
from hypothesis import given, settings
from hypothesis import strategies as st

from segtrain.config import Data, parse
from segtrain.data import augment1d, shapes, signals
from segtrain.data.dataset import Sample
from segtrain.data.loader import open_loader
from segtrain.errors import UserError
from segtrain.training.learner import Learner

HEADER = "time,ecg,resp,label"
ROWS = ["0,0.5,1,0", "1,1.5,2,1", "2,2.5,1,1", "3,3.5,2,0"]
ALL = ["scale(0.5, 2)", "stretch(0.5, 2)", "flip", "invert", "noise(0.1)", "wander(0.3, 50)"]


def opened(root, rows=ROWS, name="a.csv", **options):
    (root / "train").mkdir(exist_ok=True)
    if rows:
        (root / "train" / name).write_text("\n".join([HEADER, *rows]) + "\n")
    given = {"signal": ["ecg", "resp"], "label": "label", "standardise": "none", **options}
    return signals.build("train", root=root, classes=["none", "beat"], **given)


def test_a_csv_is_read_as_it_is(tmp_path):
    sample = opened(tmp_path).read(0)
    assert sample.image.dtype == np.float32 and sample.mask.dtype == np.uint8
    assert sample.image.tolist() == [[0.5, 1], [1.5, 2], [2.5, 1], [3.5, 2]]
    assert sample.mask.tolist() == [0, 1, 1, 0]


def test_arrays_by_name(tmp_path):
    (tmp_path / "train").mkdir()
    ecg, label = np.arange(6.0).reshape(3, 2), np.array([0, 1, 9])
    np.savez(tmp_path / "train/a.npz", ecg=ecg, label=label)
    fields = np.zeros(3, [("ecg", "f4"), ("label", "i2")])
    np.save(tmp_path / "train/b.npy", fields)
    dataset = opened(tmp_path, rows=[], signal=["ecg"], ignore=9)
    assert dataset.ids == ["a.npz", "b.npy"]
    assert (dataset.read(0).image == ecg).all() and dataset.read(0).mask.tolist() == [0, 1, 9]
    assert dataset.read(1).image.shape == (3, 1)


def test_each_channel_of_a_record_is_standardised(tmp_path):
    image = opened(tmp_path, standardise="record").read(0).image
    assert np.abs(image.mean(axis=0)).max() < 1e-6 and np.abs(image.std(axis=0) - 1).max() < 1e-6


def test_ids_are_mapped(tmp_path):
    dataset = opened(tmp_path, ["1,1,1,7"], label_map={7: 1})
    assert dataset.read(0).mask.tolist() == [1]


@pytest.mark.parametrize(
    ("rows", "parts"),
    [
        (["0,a,1,0"], ["'ecg' is 'a' in line 2, not a number"]),
        ([*ROWS, "4,,1,0"], ["'ecg' is '' in line 6"]),
        ([*ROWS, "4,1"], ["'resp' is '' in line 6"]),
        ([*ROWS, "4,nan,1,0"], ["'ecg' is nan in line 6"]),
        ([*ROWS, "4,1,inf,0"], ["'resp' is inf in line 6"]),
        ([*ROWS, "4,1,1,2"], ["'label' is 2 in line 6", "2 classes", "data.label_map={2: CLASS}"]),
        ([*ROWS, "4,1,1,0.5"], ["'label' is 0.5 in line 6"]),
        ([*ROWS, "4,1,1,nan"], ["'label' is nan in line 6"]),
        ([*ROWS, "4,1,1,-1"], ["'label' is -1 in line 6"]),
        ([""], ["'ecg' is empty"]),
    ],
)
def test_what_is_wrong_in_a_file(tmp_path, rows, parts):
    with pytest.raises(UserError) as error:
        opened(tmp_path, rows).read(0)
    for part in ["a.csv", *parts]:
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"signal": ["egc"]}, "no column 'egc'; there are time, ecg, resp, label"),
        ({"signal": ["label"]}, "is a channel"),
        ({"signal": []}, "one or more"),
        ({"background": 2}, "0 to 1"),
        ({"splits": {"train": "x"}}, "no split 'train'"),
    ],
)
def test_wrong_options(tmp_path, options, says):
    with pytest.raises(UserError, match=says):
        opened(tmp_path, **options).read(0)


@pytest.mark.parametrize("name", ["a.npz", "a.npy"])
def test_damaged_arrays(tmp_path, name):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / name).write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(UserError, match=name):
        opened(tmp_path, rows=[]).read(0)


def test_arrays_that_differ_in_length(tmp_path):
    (tmp_path / "train").mkdir()
    np.savez(tmp_path / "train/a.npz", ecg=np.zeros(4), resp=np.zeros(4), label=np.zeros(3))
    with pytest.raises(UserError, match="differ in length"):
        opened(tmp_path, rows=[]).read(0)


# ---- crops

LINE = Sample(np.arange(100, dtype=np.float32)[:, None], (np.arange(100) // 10).astype(np.uint8))


def made(texts, crop=64, seed=0, sample=LINE):
    rng = np.random.default_rng(seed)
    return augment1d.augment(sample, (crop,), augment1d.parse(texts), rng, 255)


def test_a_crop_alone_is_a_part_of_the_record():
    image, mask = made([])
    start = int(image[0, 0])
    assert (image[:, 0] == np.arange(start, start + 64)).all()
    assert (mask == LINE.mask[start : start + 64]).all()


def test_a_short_record_is_mirrored_and_ignored_beyond_its_ends():
    image, mask = made([], crop=150)
    start = int(np.flatnonzero(mask != 255)[0])
    assert (mask != 255).sum() == 100
    assert (image[start : start + 100] == LINE.image).all()
    assert image[start - 1, 0] == 1 and image[start + 100, 0] == 98


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 300), st.integers(1, 200))
def test_any_seed_crop_and_length(seed, crop, length):
    sample = Sample(LINE.image[:length], LINE.mask[:length])
    image, mask = made(ALL, crop, seed, sample)
    assert image.shape == (crop, 1) and image.dtype == np.float32 and np.isfinite(image).all()
    assert mask.shape == (crop,) and set(np.unique(mask)) <= {*np.unique(sample.mask), 255}
    again = made(ALL, crop, seed, sample)
    assert (again.image == image).all() and (again.mask == mask).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_signal_and_labels_move_together(seed):
    image, mask = made(["stretch(0.5, 2)", "flip"], 80, seed)
    inside = mask != 255
    assert (np.abs(image[inside, 0] / 10 - mask[inside] - 0.5) <= 0.56).all()


@pytest.mark.parametrize("text", ["color(0.2)", "stretch(2, 1)", "noise", "rotate(5)"])
def test_an_unknown_augmentation(text):
    with pytest.raises(UserError, match="data.augment"):
        augment1d.parse([text])


def test_the_number_of_workers_changes_nothing(tmp_path):
    for index in range(5):
        rows = [f"{i},{i * index},{i % 7},{i % 2}" for i in range(20 + index)]
        dataset = opened(tmp_path, rows, f"{index}.csv")
    data = Data(name="signals", crop=(24,), augment=ALL)
    found = []
    for workers in (0, 2):
        with open_loader(dataset, data, 2, 2, 0, workers) as loader:
            found.append([(b.images.copy(), b.masks.copy()) for b in loader.epoch(1)])
    assert found[0][0][0].shape == (2, 2, 24) and found[0][0][0].dtype == np.float32
    for (x, y), (again, labels) in zip(*found):
        assert (x == again).all() and (y == labels).all()


# ---- together with a network


def test_signals_want_a_network_for_signals_and_images_one_for_images(tmp_path):
    records, pictures = opened(tmp_path), shapes.build("train", train=2)
    flat = parse({"model": {"widths": [8, 8]}, "data": {"crop": [32, 32]}})
    with pytest.raises(UserError, match="this dataset has signals: write model.dim=1"):
        Learner(flat, records, np.ones(2), [mx.cpu()], 1)
    line = parse({"model": {"widths": [8, 8], "dim": 1}})
    with pytest.raises(UserError, match="this dataset has images: write model.dim=2"):
        Learner(line, pictures, np.ones(4), [mx.cpu()], 1)


def test_signals_have_defaults_of_their_own():
    config = parse({"model": {"dim": 1}, "data": {"name": "signals"}})
    assert config.data.crop == (1024,)
    assert augment1d.parse(config.data.augment)


def test_ludb_counts():
    root = real("ludb")
    options = {"signal": ["wave_form"], "label": "train_label", "classes": ["none", "P", "QRS", "T"]}
    for split, count in (("train", 140), ("val", 20)):
        dataset = signals.build(split, root=root, **options)
        assert len(dataset.ids) == count
        sample = dataset.read(0)
        assert sample.image.shape == (len(sample.mask), 1)
