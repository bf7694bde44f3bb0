"""Trained networks compared: two seeds of one config, and one that was trained for a while only.

The synthetic shapes, told from the ground alone, because a network learns that in seconds.
"""

import json

import pytest
from conftest import CLASSES, run, write_pair

from segtrain.data import shapes


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Runs one and two, of 8 epochs with a seed each, and half, of 2."""
    home = tmp_path_factory.mktemp("compared")
    for split, count in (("train", 150), ("val", 30)):
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
train: {{batch: 4, lr: 0.004, optimizer: adamw, warmup: 0.5}}
eval: {{every: 8}}
"""
    )
    for name, seed, epochs in (("one", 1, 8), ("two", 2, 8), ("half", 3, 2)):
        changes = [f"seed={seed}", f"train.epochs={epochs}", "--devices", "cpu"]
        code, said = run("train", home / "found.yaml", *changes, "--out", home / name)
        assert code == 0, said
    return home


def compared(home, a, b):
    code, text = run("compare", home / a, home / b, "--devices", "cpu", "--json", home / "verdict.json")
    assert code == 0, text
    return json.loads((home / "verdict.json").read_text())


def test_two_seeds_of_one_config_are_not_called_different(home):
    """Their networks often are, by more than the images' chance: see `differ_in_seed`."""
    found = compared(home, "one", "two")
    assert found["better"] is None
    assert "is better" not in found["verdict"], found["verdict"]


@pytest.mark.parametrize("trained", ["one", "two"])
def test_a_half_trained_network_is_called_worse(home, trained):
    found = compared(home, "half", trained)
    assert found["better"] == "b" and found["verdict"].startswith("B is better by "), found["verdict"]
    low, high = found["miou"]["ci95"]
    assert 0 < low < found["miou"]["difference"] < high


def test_a_run_that_was_stopped_is_no_other_seed_of_the_config(home):
    """What differs is then also how long it was trained."""
    state = home / "two/checkpoints/last/state.json"
    kept = json.loads(state.read_text())
    state.write_text(json.dumps({**kept, "history": kept["history"][:1]}))
    differs = compared(home, "half", "two")["miou"]["different"]
    found = compared(home, "one", "two")
    state.write_text(json.dumps(kept))
    assert differs and (found["better"] is not None) == found["miou"]["different"]
