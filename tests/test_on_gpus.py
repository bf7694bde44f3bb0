"""What only a GPU can show: its memory, cuDNN's search, and a run from training to masks."""

import subprocess
import sys

import cv2
import mxnet as mx
import numpy as np
import pytest
from conftest import run, start

from segtrain.training import progress
from segtrain.training.progress import memory

pytestmark = pytest.mark.gpu


def named(gpus):
    return "gpu:" + ",".join(str(gpu.device_id) for gpu in gpus)


@pytest.mark.parametrize("half", [False, True])
def test_a_run_is_judged_exported_and_used(gpus, config_file, folder, tmp_path, half):
    """On all cards, in float16 too; the masks are those of a CPU, but for what GPUs round."""
    precision = f"train.precision={'float16' if half else 'float32'}"
    code, text = run(
        "train",
        config_file,
        "train.epochs=1",
        precision,
        "--devices",
        named(gpus),
        "--out",
        tmp_path / "run",
    )
    assert code == 0, text
    code, text = run("eval", tmp_path / "run", "--devices", "gpu", "--flip")
    assert code == 0 and "mIoU" in text, text
    inputs = folder / "val/images"
    code, text = run("predict", tmp_path / "run", inputs, "--out", tmp_path / "gpu", "--devices", "gpu")
    assert code == 0, text
    if half:
        return  # MXNet has no float16 convolution for the CPU
    code, text = run("predict", tmp_path / "run", inputs, "--out", tmp_path / "cpu", "--devices", "cpu")
    assert code == 0, text
    code, text = run("export", tmp_path / "run", "--out", tmp_path / "bundle", "--format", "float16")
    assert code == 0, text
    command = [sys.executable, tmp_path / "bundle/infer.py", inputs, "--gpu", str(gpus[0].device_id)]
    for name in ("mxnet", "float16"):
        subprocess.run([*command, "--out", tmp_path / name, "--format", name], check=True)
    for path in sorted((tmp_path / "cpu").rglob("*.png")):
        wanted = cv2.imread(str(path))
        for other in ("gpu", "mxnet", "float16"):
            found = cv2.imread(str(tmp_path / other / path.relative_to(tmp_path / "cpu")))
            assert (found == wanted).mean() > 0.95, other


def test_the_bar_tells_of_the_cards_memory(gpus, monkeypatch):
    before, lines = memory(gpus[0]), []
    held = mx.nd.zeros((2**28,), ctx=gpus[0], dtype="uint8")
    held.wait_to_read()
    assert memory(gpus[0]) - before >= 2**27
    monkeypatch.setattr(progress, "EVERY", 0)
    with progress.Progress("epoch 1/1", 0, 2, gpus[0], lines.append) as bar:
        bar.show(1, {"ce": 1.0}, 0.1, 4, 1)
    assert f"mem {memory(gpus[0]) / 2**30:.1f}G" in lines[0]


# More than any card has, in arrays that MXNet can count the elements of.
LARGE = ["model.widths=[64, 64]", "model.units=24", "data.crop=[2048, 2048]", "data.workers=0"]


def test_a_batch_that_does_not_fit_is_told_of(gpus, config_file, tmp_path):
    """In a process of its own, in which MXNet fails."""
    out = ("--out", tmp_path / "run", "--devices", named(gpus[:1]))
    process = start("train", config_file, *LARGE, "train.batch=6", *out)
    text = process.communicate(timeout=600)[0]
    assert process.returncode == 2 and "out of memory with train.batch=6: write train.acc" in text, text


def test_batch_auto_finds_what_fits(gpus, config_file, tmp_path):
    from segtrain.config import load
    from segtrain.data.dataset import open_split
    from segtrain.training import trial

    config = load(config_file, LARGE)
    data, weights = open_split(config.data, "train"), np.ones(len(config.data.classes))
    assert trial._peak(config, data, weights, gpus[:1], 6) is None
    fits = load(config_file, [])
    assert trial.largest_batch(fits, data, weights, gpus[:1]) == 4  # a power of two, of six samples


SEARCHED = """
import sys
from contextlib import nullcontext
import mxnet as mx
from segtrain.prediction.infer import unsearched
gpu = mx.gpu(int(sys.argv[1]))
net = mx.gluon.nn.Conv2D(8, 3, in_channels=3)
net.initialize(ctx=gpu)
net.hybridize(static_alloc=True, static_shape=True)
with {"all": nullcontext, "none": unsearched}[sys.argv[2]]():
    net(mx.nd.ones((1, 3, 32, 32), ctx=gpu)).asnumpy()
"""


@pytest.mark.parametrize("which", ["all", "none"])
def test_cudnn_is_told_while_mxnet_runs_whether_to_search(gpus, which):
    """MXNet says so before its first search."""
    command = [sys.executable, "-c", SEARCHED, str(gpus[0].device_id), which]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ("performance tests to find the best convolution" in done.stdout + done.stderr) == (
        which == "all"
    )
