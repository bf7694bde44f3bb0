"""Signals from end to end: a tiny 1-D network on synthetic records, killed, scored and put to use."""

import csv
import hashlib
import json
import shutil
import subprocess
import sys
import time

import mxnet as mx
import numpy as np
import pytest
from conftest import ALONE, run, start
from skimage.measure import label
from skimage.metrics import adapted_rand_error, variation_of_information
from sklearn.metrics import confusion_matrix, jaccard_score

from segtrain import models
from segtrain.config import Model

CONFIG = """
model: {{name: unet, dim: 1, in_channels: 2, widths: [8, 16], units: 1, skip: residual}}
data: {{name: signals, root: {root}, classes: [none, up, down], signal: [a, b], label: y,
       rate: 100, crop: [128], workers: 1}}
train: {{epochs: 8, batch: 4, lr: 0.01, optimizer: adam, warmup: 0, log_every: 1}}
eval: {{every: 4, tolerance_ms: 50}}
"""


def write_record(path, length, rng):
    """Humps up (class 1) and down (class 2) on noise, and a channel of noise alone."""
    y = np.zeros(length, int)
    starts = np.arange(15, length - 20, 40) + rng.integers(-5, 5)
    for k, at in enumerate(starts):
        y[at : at + 12] = 1 + k % 2
    a = np.array([0, 3, -3])[y] + rng.normal(0, 0.2, length)
    rows = zip(a.tolist(), rng.normal(0, 1, length).tolist(), y.tolist())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("a,b,y\n" + "".join(f"{p},{q},{r}\n" for p, q, r in rows))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with records, a config, and a run of it that nothing disturbed."""
    home, rng = tmp_path_factory.mktemp("signals"), np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 3)):
        for index in range(count):
            write_record(home / "data" / split / f"{index}.csv", 100 + 37 * index, rng)
    (home / "c.yaml").write_text(CONFIG.format(root=home / "data"))
    code, text = run("train", home / "c.yaml", "--out", home / "run")
    assert code == 0, text
    return home


def digest(folder):
    files = ["last/model.params", "last/optimizer.params", "best/model.params"]
    return [hashlib.sha256((folder / "checkpoints" / f).read_bytes()).hexdigest() for f in files]


def test_killed_and_resumed_to_the_same_bits(home):
    folder = home / "killed"
    process = start("train", home / "c.yaml", "--out", folder)
    while not (folder / "history.csv").exists():
        assert process.poll() is None
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert len((folder / "history.csv").read_text().splitlines()) < 9
    code, text = run("train", home / "c.yaml", "--out", folder, "--resume")
    assert code == 0, text
    assert digest(folder) == digest(home / "run")


def test_several_devices(home):
    code, text = run(
        "train", home / "c.yaml", "train.epochs=1", "--devices", "cpu:0,1", "--out", home / "two"
    )
    assert code == 0, text


def scores(home, *options):
    code, text = run("eval", home / "run", "--json", home / "scores.json", *options)
    assert code == 0, text
    return json.loads((home / "scores.json").read_text()), text


def test_scores(home):
    result, text = scores(home)
    assert result["miou"] > 0.5 and len(result["images"]) == 3 and result["miou_ci95"][0]
    events = result["events"]
    assert events["tolerance_ms"] == 50 and [c["name"] for c in events["classes"]] == ["up", "down"]
    onset = events["classes"][0]["onset"]
    assert {"sensitivity", "ppv", "f1", "mean_ms", "std_ms"} <= set(onset)
    assert 0 < events["mean_f1"] <= 1 and "up onset" in text and "within 50 ms" in text
    loose, _ = scores(home, "--tolerance", 500)
    assert loose["events"]["mean_f1"] >= events["mean_f1"]


def test_labels_of_records(home):
    out = home / "labels"
    code, text = run("predict", home / "run", home / "data/val", "--out", out, "--overlay")
    assert code == 0, text
    assert {p.name for p in out.glob("*.csv")} == {"0.csv", "1.csv", "2.csv"}
    rows = list(csv.DictReader((out / "1.csv").open()))
    assert len(rows) == 137 and set(rows[0]) == {"sample", "time_s", "class", "name"}
    assert rows[10]["time_s"] == "0.1"
    assert all(row["name"] == ["none", "up", "down"][int(row["class"])] for row in rows)
    assert (out / "overlays/1.png").read_bytes().startswith(b"\x89PNG")


def test_saved_labels_give_the_same_scores(home):
    result, _ = scores(home, "--save-predictions", home / "saved")
    run("predict", home / "run", home / "data/val", "--out", home / "again")
    truth, found = [], []
    for name in ("0", "1", "2"):
        content = (home / "saved" / f"{name}.csv").read_bytes()
        assert content == (home / "again" / f"{name}.csv").read_bytes()
        truth += [int(row["y"]) for row in csv.DictReader((home / f"data/val/{name}.csv").open())]
        found += [int(row["class"]) for row in csv.DictReader((home / f"saved/{name}.csv").open())]
    assert result["confusion"] == confusion_matrix(truth, found, labels=[0, 1, 2]).tolist()
    wanted = jaccard_score(truth, found, labels=[0, 1, 2], average=None)
    assert [row["iou"] for row in result["per_class"]] == pytest.approx(wanted)


def test_saved_labels_of_records_that_differ_in_their_ending(home, tmp_path):
    shutil.copytree(home / "data", tmp_path / "data")
    rows = np.genfromtxt(tmp_path / "data/val/0.csv", delimiter=",", names=True)
    np.savez(tmp_path / "data/val/0.npz", **{name: rows[name] for name in rows.dtype.names})
    shutil.copytree(home / "run", tmp_path / "run")
    config = tmp_path / "run/config.yaml"
    config.write_text(config.read_text().replace(str(home / "data"), str(tmp_path / "data")))
    saved = tmp_path / "saved"
    code, text = run("eval", tmp_path / "run", "--save-predictions", saved)
    assert code == 0, text
    assert sorted(p.name for p in saved.iterdir()) == ["0.csv.csv", "0.npz.csv", "1.csv", "2.csv"]
    assert (saved / "0.csv.csv").read_bytes() == (saved / "0.npz.csv").read_bytes()


def test_measures_of_records(home):
    result, text = scores(
        home, "--metrics", "calibration,segments", "--save-predictions", home / "saved"
    )
    assert 0 < result["ece"] < 0.5 and sum(row["pixels"] for row in result["calibration"]) == 411
    wanted = []
    for name in ("0", "1", "2"):
        truth = [int(row["y"]) for row in csv.DictReader((home / f"data/val/{name}.csv").open())]
        found = [int(row["class"]) for row in csv.DictReader((home / f"saved/{name}.csv").open())]
        parts = [label(np.array(ids), background=-1) for ids in (truth, found)]
        wanted.append([*adapted_rand_error(*parts)[:1], sum(variation_of_information(*parts))])
    assert [result["rand_error"], result["vi"]] == pytest.approx(np.mean(wanted, axis=0))
    assert result["vi"] > 0
    code, text = run("eval", home / "run", "--metrics", "boundary")
    assert code == 2 and "is for images, and these are signals: leave it out" in " ".join(text.split())


def test_a_bundle_labels_as_the_run_does(home):
    code, text = run("export", home / "run", "--out", home / "bundle")
    assert code == 0, text
    names = {"model-symbol.json", "model-0000.params", "model.json", "parity.json"}
    scripts = {f"{name}.py" for name in ("infer", "pictures", "records", "runtimes", "threads")}
    scripts |= {"tiling.py", "video.py"}
    assert {p.name for p in (home / "bundle").iterdir()} == {*names, *scripts, "README.md"}
    parity = json.loads((home / "bundle/parity.json").read_text())
    assert parity["passed"] and [row["length"] for row in parity["images"]] == [100, 137, 32]
    for out, model in (("a", "run"), ("b", "bundle")):
        code, text = run("predict", home / model, home / "data/val", "--out", home / out)
        assert code == 0, text
    command = [sys.executable, "-c", ALONE, home / "bundle/infer.py", home / "data/val"]
    subprocess.run([*command, "--out", home / "c"], check=True)
    for name in ("0.csv", "1.csv", "2.csv"):
        wanted = (home / "a" / name).read_bytes()
        assert (home / "b" / name).read_bytes() == (home / "c" / name).read_bytes() == wanted


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (("predict", "run", "data/val", "--out", "data/val"), "is one of the inputs"),
        (("predict", "run", "run/log.txt", "--out", "o"), "log.txt: not a record (.csv"),
        (("predict", "run", "nowhere", "--out", "o"), "no record there (.csv, .npy, .npz)"),
        (("predict", "run", "data/val", "--out", "o", "--flip"), "signals go through whole"),
        (("eval", "run", "--scales", "0.5,1"), "signals go through whole"),
        (("train", "c.yaml", "model.dim=2", "--out", "o"), "data.crop=[128, 128], or model.dim=1"),
        (("train", "c.yaml", "model.in_channels=1", "--out", "o"), "set model.in_channels"),
        (("train", "c.yaml", "data.signal=[c]", "--out", "o"), "no column 'c'; there are a, b, y"),
        (("train", "c.yaml", "data.crop=[129]", "--out", "o"), "write data.crop=[128]"),
        (("train", "c.yaml", "data.augment=[color(1)]", "--out", "o"), "no 'color'; there are"),
    ],
)
def test_a_mistake(home, tmp_path, command, says):
    code, text = run(*[tmp_path / "o" if word == "o" else word for word in command], cwd=home)
    assert code == 2 and says in " ".join(text.split()), text


def test_any_length_after_any_other():
    """oneDNN wants another layout of a transposed convolution's weights for short inputs."""
    model = Model(name="unet", dim=1, in_channels=1, widths=[16, 32, 64, 128, 128])
    net = models.network(model, 4)
    models.initialize(net, model, [mx.cpu()], seed=0)
    net.hybridize(static_alloc=True, static_shape=True)
    for length in (16, 1600, 33, 1600, 7, 5000):
        assert net(mx.nd.zeros((1, 1, length))).asnumpy().shape == (1, 4, length)
