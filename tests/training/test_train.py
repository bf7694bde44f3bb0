"""Real runs in real processes: trained, killed, stopped and resumed to the same bits."""

import csv
import hashlib
import json
import signal
import subprocess
import sys
import time

import pytest
from conftest import run, start

from segtrain.training.train import run_path

SMALL = """
model: {name: unet, widths: [8, 16], units: 1}
data: {name: shapes, size: [40, 40], train: 40, val: 6, crop: [32, 32],
       augment: ["scale(0.5, 2)", flip, "noise(5)"], workers: 1}
train: {epochs: 3, batch: 4, lr: 0.01, optimizer: adam, loss: {ce: 1, dice: 1}}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A config, and the folder of a run of it that nothing disturbed."""
    home = tmp_path_factory.mktemp("train")
    (home / "small.yaml").write_text(SMALL)
    code, text = run("train", home / "small.yaml", "--out", home / "whole")
    assert code == 0, text
    return home


def digest(folder):
    files = ["last/model.params", "last/optimizer.params", "best/model.params"]
    return [hashlib.sha256((folder / "checkpoints" / f).read_bytes()).hexdigest() for f in files]


def losses(folder):
    rows = list(csv.DictReader((folder / "history.csv").open()))
    return [(row["epoch"], row["loss"], row["loss_dice"], row["miou"]) for row in rows]


def same(home, folder):
    assert digest(folder) == digest(home / "whole")
    assert losses(folder) == losses(home / "whole")


def test_what_a_run_leaves(home):
    whole = home / "whole"
    found = {p.relative_to(whole).as_posix() for p in whole.rglob("*") if p.is_file()}
    assert found - {".lock"} == {
        "config.yaml",
        "environment.json",
        "history.csv",
        "report.html",
        "log.txt",
        *[f"checkpoints/{c}/{f}" for c in ("best", "last") for f in ("model.params", "state.json")],
        "checkpoints/last/optimizer.params",
        *[f"checkpoints/last.previous/{f}" for f in ("model.params", "state.json", "optimizer.params")],
        *{p for p in found if p.startswith("checkpoints/best.previous/")},
        *(events := {p for p in found if p.startswith("events/events.out.tfevents.")}),
    }
    assert len(events) == 1
    assert len(losses(whole)) == 3
    assert "# override" not in (whole / "config.yaml").read_text()
    about = json.loads((whole / "environment.json").read_text())
    assert about["mxnet"] == "1.9.1" and len(about["files_sha256"]["train"]) == 64


def test_the_same_again_is_the_same(home):
    code, _ = run("train", home / "small.yaml", "data.workers=0", "--out", home / "again")
    assert code == 0
    same(home, home / "again")


@pytest.mark.parametrize("after", [1, 2])
def test_killed_and_resumed_to_the_same_bits(home, after):
    folder = home / f"killed-{after}"
    process = start("train", home / "small.yaml", "--out", folder)
    deadline = time.monotonic() + 120
    while not (folder / "history.csv").exists() or len(losses(folder)) < after:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert len(losses(folder)) < 3
    code, text = run("train", home / "small.yaml", "--out", folder, "--resume")
    assert code == 0, text
    same(home, folder)


def test_killed_before_the_first_checkpoint(home):
    folder = home / "early"
    process = start("train", home / "small.yaml", "--out", folder)
    while not (folder / "environment.json").exists():
        assert process.poll() is None
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert not (folder / "checkpoints/last").exists()
    code, text = run("train", home / "small.yaml", "--out", folder)
    assert code == 2 and "--resume" in text
    code, text = run("train", home / "small.yaml", "--out", folder, "--resume")
    assert code == 0, text
    same(home, folder)


@pytest.mark.parametrize(("number", "group"), [(signal.SIGINT, True), (signal.SIGTERM, False)])
def test_stopped_in_an_epoch_and_resumed_by_the_command_it_prints(home, number, group):
    """SIGINT as a terminal sends it, to the whole group; SIGTERM to the process alone."""
    import os
    import shlex

    folder = home / f"stopped-{number.name}"
    process = start(
        "train", home / "small.yaml", "train.epochs=200", "--out", folder, start_new_session=True
    )
    while not (folder / "history.csv").exists():
        assert process.poll() is None
        time.sleep(0.01)
    (os.killpg if group else os.kill)(process.pid, number)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 130, output
    assert "stopped" in output and "Traceback" not in output
    command = shlex.split(output.split("To go on: ")[1].splitlines()[0])
    before = json.loads((folder / "checkpoints/last/state.json").read_text())
    assert command[:2] == ["segtrain", "train"] and command[-1] == "--resume"
    process = start(*command[1:])
    while json.loads((folder / "checkpoints/last/state.json").read_text())["epoch"] <= before["epoch"]:
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()


def test_stopped_in_the_middle_ends_at_the_same_bits(home):
    """Stop at a step of our choosing, from inside, then resume."""
    script = f"""
import os, signal, sys, time
from segtrain.training import learner
step = learner.Learner.step
def counted(self, batch, number):
    step(self, batch, number)
    if number == 13:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)
learner.Learner.step = counted
from segtrain.cli import main
sys.argv = ["segtrain", "train", {str(home / "small.yaml")!r}, "--out", {str(home / "middle")!r}]
if __name__ == "__main__":
    main()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 130, done.stderr
    assert "epoch 2, step 4" in done.stderr
    code, text = run("train", home / "middle/config.yaml", "--out", home / "middle", "--resume")
    assert code == 0, text
    same(home, home / "middle")


def test_the_second_interrupt_aborts_at_once(home):
    folder = home / "aborted"
    slow = ("data.size=[400, 400]", "data.crop=[400, 400]", "train.batch=40", "train.epochs=99")
    process = start("train", home / "small.yaml", *slow, "model.widths=[32, 64]", "--out", folder)
    while not (folder / "environment.json").exists():
        time.sleep(0.01)
    time.sleep(2)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
    begun = time.monotonic()
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 130 and "at once" in output and "Traceback" not in output
    assert time.monotonic() - begun < 5


def test_resume_needs_the_same_config_and_something_to_resume(home, tmp_path):
    code, text = run("train", home / "small.yaml", "train.lr=0.5", "--out", home / "whole", "--resume")
    assert code == 2 and "train.lr=0.01" in text and "0.5" in text
    environment = home / "whole/environment.json"
    kept = environment.read_text()
    sums = json.loads(kept)["files_sha256"]
    environment.write_text(kept.replace(sums["val"], "0" * 64))
    code, text = run("train", home / "small.yaml", "--out", home / "whole", "--resume")
    environment.write_text(kept)
    assert code == 2 and "the split 'val' holds other files" in text
    for out in ([], ["--out", tmp_path / "none"]):
        code, text = run("train", home / "small.yaml", *out, "--resume", cwd=tmp_path)
        assert code == 2 and "nothing to resume" in text


def test_an_existing_run_is_never_written_over(home, tmp_path):
    code, text = run("train", home / "small.yaml", "--out", home / "whole")
    assert code == 2 and "--resume" in text
    for name in ("small", "small-2"):
        assert run_path(home / "small.yaml", False, tmp_path / "runs") == tmp_path / "runs" / name
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "config.yaml").touch()
    code, text = run("train", home / "small.yaml", "train.epochs=1", cwd=tmp_path)
    assert code == 0 and "runs/small-3" in text
    assert (tmp_path / "runs/small-3/history.csv").exists()
    assert not (tmp_path / "runs/small/config.yaml").read_text()


def test_the_loss_in_the_history_is_the_one_optimised(tmp_path):
    """With a rate of nearly nothing, it is the loss of the first weights on the epoch's batches."""
    import mxnet as mx
    import numpy as np

    from segtrain import config, models
    from segtrain.data.dataset import open_split
    from segtrain.data.loader import open_loader

    (tmp_path / "c.yaml").write_text(SMALL)
    loaded = config.load(
        tmp_path / "c.yaml",
        ["train.lr=1e-12", "train.epochs=1", "train.loss={ce: 2}", "model.norm=none"],
    )
    from segtrain.training.train import train

    history = train(loaded, tmp_path / "run").history()
    net = models.network(loaded.model, 4)
    models.initialize(net, loaded.model, [mx.cpu()], loaded.seed)
    means = []
    with open_loader(open_split(loaded.data, "train"), loaded.data, 3, 4, 0, 0) as loading:
        for batch in loading.epoch(0):
            p = net(mx.nd.array(batch.images, dtype="uint8")).softmax(axis=1).asnumpy()
            valid = batch.masks != 255
            picked = np.moveaxis(p, 1, -1)[valid][np.arange(valid.sum()), batch.masks[valid]]
            means.append(-2 * np.log(picked).mean())
    assert history[0]["loss"] == pytest.approx(np.mean(means), rel=1e-4)


def test_a_loss_that_is_no_number_stops_the_run(home, tmp_path):
    code, text = run("train", home / "small.yaml", "train.lr=1e30", "--out", tmp_path / "nan")
    assert code == 1 and "no longer a number" in text and "train.lr" in text
