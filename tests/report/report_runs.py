"""Runs to report on: one of images, whose names are hostile, and one of signals."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import run, write_pair
from report_pages import CLASSES

from segtrain.data import shapes


@pytest.fixture(scope="session")
def image_run(tmp_path_factory) -> Path:
    """Seven validation images of 60x80 pixels: a part of each is void, and all of the last."""
    home = tmp_path_factory.mktemp("report")
    for split, count in (("train", 8), ("val", 7)):
        source = shapes.build(split, size=(60, 80))
        for index in range(count):
            image, mask = source.read(index)
            mask[:12, :60] = 255
            if split == "val" and index == 6:
                mask[:] = 255
            write_pair(home / "data" / split, f"{index:02d} <b>&", image, mask)
    config = {
        "model": {"name": "unet", "widths": [8, 16], "units": 1},
        "data": {
            "name": "folder",
            "root": str(home / "data"),
            "classes": CLASSES,
            "crop": [32, 32],
            "workers": 0,
        },
        "train": {"epochs": 3, "batch": 4, "lr": 0.01, "loss": {"ce": 1, "dice": 1}},
    }
    return _train(home, yaml.safe_dump(config))


@pytest.fixture(scope="session")
def signal_run(tmp_path_factory) -> Path:
    """Three validation records of two channels, at 100 samples per second."""
    home, rng = tmp_path_factory.mktemp("signals"), np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 3)):
        for index in range(count):
            labels = np.repeat(np.arange(24) % 3, 10)
            values = np.array([0, 3, -3])[labels] + rng.normal(0, 0.2, len(labels))
            rows = zip(values, rng.normal(0, 1, len(labels)), labels)
            path = home / "data" / split / f"{index}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("a,b,y\n" + "".join(f"{p},{q},{r}\n" for p, q, r in rows))
    return _train(
        home,
        f"""
model: {{name: unet, dim: 1, in_channels: 2, widths: [8, 16], units: 1}}
data: {{name: signals, root: {home / "data"}, classes: [none, up, "<i>down"], signal: [a, b], label: y,
       rate: 100, crop: [128], workers: 0}}
train: {{epochs: 2, batch: 4, lr: 0.01}}
""",
    )


def _train(home: Path, config: str) -> Path:
    (home / "c.yaml").write_text(config)
    code, text = run("train", home / "c.yaml", "--out", home / "run")
    assert code == 0, text
    code, text = run("report", home / "run", "--images", 2)
    assert code == 0, text
    return home / "run"
