"""Trained networks compared: two seeds of one config, and one that was trained for a while only.

The synthetic shapes, told from the ground alone, because a network learns that in seconds.
"""

import json
from itertools import combinations

import numpy as np
import pytest
from conftest import CLASSES, run, write_pair

from segtrain.data import shapes


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Runs one to three, of 8 epochs with a seed each, and half, of 2."""
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
    whole = [(name, seed, 8) for seed, name in enumerate(("one", "two", "three"), 1)]
    for name, seed, epochs in (*whole, ("half", 4, 2)):
        changes = [f"seed={seed}", f"train.epochs={epochs}", "--devices", "cpu"]
        code, said = run("train", home / "found.yaml", *changes, "--out", home / name)
        assert code == 0, said
    return home


def compared(home, a, b, *more):
    options = ["--devices", "cpu", "--json", home / "verdict.json", *more]
    code, text = run("compare", home / a, home / b, *options)
    assert code == 0, text
    return json.loads((home / "verdict.json").read_text())


@pytest.mark.parametrize(("a", "b"), combinations(["one", "two", "three"], 2))
def test_two_seeds_of_one_config_are_not_called_different(home, a, b):
    """Their networks often are, by more than the images' chance, and the JSON still tells that."""
    found = compared(home, a, b)
    assert found["better"] is None
    assert "is better" not in found["verdict"], found["verdict"]


def test_several_runs_tell_what_a_seed_does(home):
    found = compared(home, "half", "one", "--more-b", home / "two", "--more-b", home / "three")
    pairs = compared(home, "one", "two")["miou"], compared(home, "two", "three")["miou"]
    scores = [pairs[0]["a"], pairs[0]["b"], pairs[1]["b"]]
    assert found["seeds"] == {"a": 1, "b": 3, "spread": pytest.approx(np.std(scores, ddof=1))}
    row = found["miou"]
    assert row["b"] == pytest.approx(np.mean(scores)) and row["p"] >= row["p_seeds"] > 0
    assert "points (standard deviation)" in found["verdict"]
    assert "of these two networks" not in found["verdict"]
    three = [str(home / name) for name in ("one", "two", "three")]
    assert found["runs"] == {"a": [str(home / "half")], "b": three}


def test_other_runs_of_the_configs_are_named(home):
    code, text = run("compare", home / "half", home / "one", "--devices", "cpu")
    assert code == 0 and "of these two networks" in text
    assert f"--more-b {home / 'three'} --more-b {home / 'two'}" in text
    code, text = run("compare", home / "half", home / "one", "--more-b", home / "half")
    assert code == 2 and "another run of B is of another config" in text and "Traceback" not in text


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
