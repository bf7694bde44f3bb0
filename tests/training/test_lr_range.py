"""The learning-rate range test: on curves whose answer is known, and on a real network."""

import json

import cv2
import numpy as np
import pytest
from conftest import run

from segtrain.training.lr_range import result

LRS = np.geomspace(1e-6, 10, 100)


@pytest.mark.parametrize("steepest", [1e-4, 1e-3, 3e-2])
@pytest.mark.parametrize("seed", range(5))
def test_the_steepest_fall_is_found_under_noise(steepest, seed):
    """A loss that falls about `steepest`, and a hundredfold higher rises without bound."""
    x = np.log10(LRS / steepest)
    loss = 1.5 - 0.8 * np.tanh(2 * x) + np.exp(4 * (x - 2.5))
    keep = loss < 6
    noise = np.random.default_rng(seed).normal(0, 0.05, keep.sum())
    found = result(LRS[keep], loss[keep] + noise, None, 100)
    assert abs(np.log10(found["suggestion"] / steepest)) < 0.25
    assert steepest < found["lowest"] < 1000 * steepest


def test_a_loss_that_never_falls_suggests_nothing():
    assert result(LRS, np.linspace(1, 9, 100), None, 100)["suggestion"] is None
    noise = np.random.default_rng(0).normal(1, 0.2, (200, 100))
    assert sum(result(LRS, n, None, 100)["suggestion"] is None for n in noise) > 180


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(
        "model: {name: unet, widths: [8, 16], units: 1, norm: none}\n"
        "data: {name: shapes, size: [32, 32], train: 20, crop: [32, 32], workers: 0}\n"
        "train: {batch: 4, optimizer: adamw, loss: {ce: 1, dice: 0.5}, warmup: 3}\n"
    )
    return path


def test_the_command_prints_an_override_and_leaves_what_was_asked_for(config, tmp_path, monkeypatch):
    monkeypatch.setenv("SEGTRAIN_CACHE", str(tmp_path / "cache"))
    options = ["--steps", 60, "--from", 1e-5, "--to", 1, "--json", "lr.json", "--out", "lr.png"]
    code, text = run("lr", config, "data.cache=disk", *options, cwd=tmp_path)
    assert code == 0, text
    found = json.loads((tmp_path / "lr.json").read_text())
    assert f"train.lr={found['suggestion']:g}" in text.splitlines()
    lrs = [point["lr"] for point in found["curve"]]
    wanted = [1e-5 * 1e5 ** (n / 60) for n in range(1, len(lrs) + 1)]
    assert lrs == pytest.approx(wanted) and 10 < len(lrs) <= 60
    assert 1e-4 < found["suggestion"] < 0.3  # what AdamW bears on a tiny network
    assert found["curve"][0]["loss"] > min(point["loss"] for point in found["curve"])
    assert cv2.imread(str(tmp_path / "lr.png")).std() > 0
    assert {p.name for p in tmp_path.iterdir()} - {"cache"} == {"tiny.yaml", "lr.json", "lr.png"}
    assert not list((tmp_path / "cache").rglob("*.cache"))  # no decoded samples
    again = run("lr", config, *options, "--json", "-", cwd=tmp_path)[1]
    assert json.loads(again[again.index("{") : again.rindex("}") + 1])["curve"] == found["curve"]


def test_it_ends_where_the_loss_diverges(config):
    options = ["train.optimizer=sgd", "--from", 0.01, "--to", 1e6, "--steps", 40, "--json", "-"]
    code, text = run("lr", config, *options)
    found = json.loads(text[text.index("{") : text.rindex("}") + 1])
    assert len(found["curve"]) < 40 and found["diverged"] >= found["curve"][-1]["lr"]


@pytest.mark.parametrize(
    ("options", "exit_code", "says"),
    [
        (["--from", 1, "--to", 0.1], 2, "low < high"),
        (["model.name=unett"], 2, "unet"),
        (["--from", 1e30, "--to", 1e31, "train.optimizer=sgd"], 1, "segtrain: "),
    ],
)
def test_what_cant_be_tested(config, options, exit_code, says):
    code, text = run("lr", config, *options)
    assert code == exit_code and says in text
