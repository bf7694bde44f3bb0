"""Trained networks compared: two seeds of one config, and one that was trained for a while only.

The synthetic shapes, told from the ground alone, because a network learns that in seconds; which of
the shapes it is takes minutes, and until then two seeds truly differ.
"""

import json

import pytest
from conftest import CLASSES, run, write_pair

from segtrain.data import shapes

TRAIN = "{batch: 2, lr: 0.006, optimizer: adamw, warmup: 0.5, loss: {ce: 1, dice: 1}}"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Runs one and two, of 8 epochs, and half, of 3."""
    home = tmp_path_factory.mktemp("compared")
    for split, count in (("train", 120), ("val", 40)):
        source = shapes.build(split, size=(64, 64))
        for index in range(count):
            write_pair(home / "data" / split, f"{index:03d}", *source.read(index))
    others = dict.fromkeys(range(2, len(CLASSES)), 1)
    (home / "found.yaml").write_text(
        f"""
model: {{name: unet, fold: 2, widths: [16, 32]}}
data:
  name: folder
  root: {home}/data
  classes: [ground, shape]
  label_map: {others}
  crop: [64, 64]
  augment: [flip, vflip]
  workers: 0
  cache: ram
train: {TRAIN}
eval: {{every: 8}}
"""
    )
    for name, seed, epochs in (("one", 1, 8), ("two", 2, 8), ("half", 1, 3)):
        changes = [f"seed={seed}", f"train.epochs={epochs}", "--devices", "cpu"]
        code, said = run("train", home / "found.yaml", *changes, "--out", home / name)
        assert code == 0, said
    return home


def compared(home, a, b):
    code, text = run("compare", home / a, home / b, "--devices", "cpu", "--json", home / "verdict.json")
    assert code == 0, text
    return json.loads((home / "verdict.json").read_text())


def test_two_seeds_of_one_config_are_not_called_different(home):
    found = compared(home, "one", "two")
    assert min(found["miou"]["a"], found["miou"]["b"]) > 0.7
    assert found["verdict"].startswith("no difference that 40 images can show"), found["verdict"]


def test_a_half_trained_network_is_called_worse(home):
    found = compared(home, "half", "one")
    assert found["verdict"].startswith("B is better by "), found["verdict"]
    low, high = found["miou"]["ci95"]
    assert 0 < low < found["miou"]["b"] - found["miou"]["a"] < high
    assert all(row["different"] and row["difference"] > 0 for row in found["per_class"])
