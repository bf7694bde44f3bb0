"""What a run does besides its steps: saves, stops, rollbacks, early stops, rehearsals, callbacks."""

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time

import cv2
import mxnet as mx
import pytest
import yaml
from conftest import run, start

import segtrain
from segtrain import models
from segtrain.config import parse
from segtrain.errors import SegtrainError, Stopped, UserError
from segtrain.run import Run
from segtrain.training.selftest import fingerprint
from segtrain.training.stopping import StopRequest

VALUES = {
    "model": {"name": "unet", "widths": [8, 16], "units": 1},
    "data": {"name": "shapes", "size": [32, 32], "train": 24, "val": 4, "crop": [32, 32], "workers": 0},
    "train": {"epochs": 2, "batch": 4, "lr": 0.01},
}


def config(**sections):
    merged = {name: {**VALUES.get(name, {}), **values} for name, values in sections.items()}
    return parse({**VALUES, **merged})


def state(folder, name="last"):
    return json.loads((folder / "checkpoints" / name / "state.json").read_text())


def weights(folder, name="last"):
    return Run.open(folder).load(name, ("model",))[0]["model"]


def test_steps_and_epochs_are_told_in_order(tmp_path):
    steps, epochs = [], []
    made = segtrain.train(
        config(train={"log_every": 4}), tmp_path / "run", on_step=steps.append, on_epoch=[epochs.append]
    )
    assert [s.number for s in steps] == list(range(12))
    assert sorted(i for s in steps[:6] for i in s.indices) == list(range(24))
    assert [e.row["epoch"] for e in epochs] == [1, 2]
    for epoch, part in zip(epochs, (steps[:6], steps[6:])):
        assert epoch.row["loss"] == pytest.approx(sum(s.loss for s in part) / 6)
        assert epoch.result["miou"] == epoch.row["miou"]
    assert made.history() == [e.row for e in epochs]


def test_a_path_is_a_config_too_and_runs_go_where_the_command_line_puts_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(VALUES))
    for name in ("mine", "mine-2"):
        made = segtrain.train("mine.yaml", quiet=True)
        assert made.path.name == name and made.best()["epoch"] in (1, 2)
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        segtrain.trian  # noqa: B018


@pytest.mark.parametrize("every", [{"every_steps": 4}, {"every_minutes": 1e-9}])
def test_saves_within_an_epoch(tmp_path, monkeypatch, every):
    saved = []
    save = Run.save

    def noted(self, name, arrays, state):
        save(self, name, arrays, state)
        if name == "last":
            saved.append((state["epoch"], state["batch"]))

    monkeypatch.setattr(Run, "save", noted)
    segtrain.train(config(checkpoint=every), tmp_path / "run")
    if "every_steps" in every:
        assert saved == [(0, 4), (1, 0), (1, 2), (1, 6), (2, 0)]
    else:
        assert saved == [(e, b) for e in (0, 1) for b in (*range(1, 7),)][:6] + [
            (1, b) for b in range(7)
        ] + [(2, 0)]


def test_the_newest_epochs_are_kept(tmp_path):
    segtrain.train(config(train={"epochs": 4}, checkpoint={"keep": 2}), tmp_path / "run")
    found = sorted(p.name for p in (tmp_path / "run/checkpoints").glob("epoch-*"))
    assert found == ["epoch-0003", "epoch-0004"]
    last, kept = weights(tmp_path / "run"), weights(tmp_path / "run", "epoch-0004")
    assert all((last[n] == kept[n]).min().asscalar() == 1 for n in last)


def test_best_holds_the_averaged_weights_and_its_score_is_theirs(tmp_path):
    from segtrain.data.dataset import open_split
    from segtrain.evaluation.evaluate import evaluate
    from segtrain.trained import open_trained

    asked = config(train={"ema": 0.9, "epochs": 3})
    made = segtrain.train(asked, tmp_path / "run")
    trained = open_trained(made.path, "cpu")
    scores = evaluate(trained.predictor(), open_split(asked.data, "val"))
    assert scores["miou"] == made.best()["miou"] == max(row["miou"] for row in made.history())
    last, best = weights(made.path), weights(made.path, "best")
    assert any((last[n] != best[n]).max().asscalar() for n in last)


def test_early_stop(tmp_path):
    """At a rate of nearly nothing no evaluation is better than the first."""
    made = segtrain.train(
        config(train={"early_stop": 2, "lr": 1e-12, "epochs": 9}, model={"norm": "group"}),
        tmp_path / "run",
    )
    assert len(made.history()) == 3 and made.best()["epoch"] == 1
    assert "early stop: no better mIoU in 2 evaluations" in (made.path / "log.txt").read_text()
    again = segtrain.train(made.config(), made.path, resume=True)
    assert len(again.history()) == 3


def test_a_file_stop_that_another_rank_takes_away_stops_too(tmp_path):
    class Taken(type(tmp_path)):
        def exists(self):
            there = super().exists()
            os.unlink(self)
            return there

    stop = StopRequest()
    stop.watch_for(Taken(tmp_path / "STOP"))
    (tmp_path / "STOP").touch()
    assert stop() and "STOP asked for it" in stop.reason


PLATEAU = {"schedule": "plateau", "patience": 2, "factor": 0.5, "final_lr": 0.2, "lr": 1e-9}


def test_plateau_lowers_the_rate_as_torch_does_and_resumes_bit_for_bit(tmp_path):
    """At a rate of nearly nothing no evaluation is better than the first."""
    asked = config(train={**PLATEAU, "epochs": 9}, model={"norm": "group"})
    whole = segtrain.train(asked, tmp_path / "whole", report=False)
    rates = [row["lr"] for row in whole.history()]
    assert rates == pytest.approx([1e-9 * r for r in (1, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.2, 0.2)])
    assert rates == pytest.approx(_torch_rates([row["miou"] for row in whole.history()]))
    assert (whole.path / "log.txt").read_text().count("no better mIoU in 2 evaluations: lr") == 3

    def stop(epoch):
        if epoch.row["epoch"] == 4:  # one evaluation into the second wait
            (tmp_path / "parts/STOP").touch()

    with pytest.raises(Stopped):
        segtrain.train(asked, tmp_path / "parts", on_epoch=stop, report=False)
    parts = segtrain.train(asked, tmp_path / "parts", resume=True, report=False)
    assert fingerprint(parts.path) == fingerprint(whole.path)
    assert [row["lr"] for row in parts.history()] == rates


def _torch_rates(scores):
    """By torch's ReduceLROnPlateau, after its source: it lowers one bad score later, so patience - 1."""
    rates, rate, best, bad = [], PLATEAU["lr"], float("-inf"), 0
    for score in scores:
        rates.append(rate)
        bad = 0 if score > best else bad + 1
        best = max(best, score)
        if bad > PLATEAU["patience"] - 1:
            rate = max(rate * PLATEAU["factor"], PLATEAU["final_lr"] * PLATEAU["lr"])
            bad = 0
    return rates


def test_plateau_acts_before_an_early_stop():
    with pytest.raises(UserError, match="train.early_stop=2 ends the run before"):
        config(train={**PLATEAU, "early_stop": 2})


def test_a_file_stop_and_a_time_that_is_up_save_and_stop(tmp_path):
    folder, long = tmp_path / "run", config(train={"epochs": 500})

    def ask():
        while not (folder / "history.csv").exists():
            time.sleep(0.01)
        (folder / "STOP").touch()

    threading.Thread(target=ask).start()
    with pytest.raises(Stopped, match="STOP asked for it.*--resume"):
        segtrain.train(long, folder)
    assert not (folder / "STOP").exists()
    before = state(folder)
    with pytest.raises(Stopped, match="max-time is up"):
        segtrain.train(long, folder, resume=True, max_seconds=1.5)
    after = state(folder)
    assert (after["epoch"], after["batch"]) > (before["epoch"], before["batch"])


def test_max_time_is_a_duration(config_file):
    code, text = run("train", config_file, "--max-time", "2 hours")
    assert code == 2 and "like 2h" in text


def test_a_run_begins_with_the_weights_of_another(tmp_path):
    """At a rate of nearly nothing they stay what they were; the head of other classes is new."""
    first = segtrain.train(config(), tmp_path / "first", report=False)
    mean = {"data": {"mean": [1, 2, 3], "std": [50, 60, 70]}}
    still = {"lr": 1e-12, "epochs": 1, "weight_decay": 0}
    asked = config(model={"weights": str(first.path), "norm": "batch"}, train=still, **mean)
    again = segtrain.train(asked, tmp_path / "again", report=False)
    before, after = weights(first.path, "best"), weights(again.path)
    learnt = [name for name in before if not name.startswith("heads.0.") and "running" not in name]
    assert len(learnt) > 10
    for name in learnt:
        assert mx.nd.abs(before[name] - after[name]).max().asscalar() < 1e-5, name
    assert any((before[name] != after[name]).max().asscalar() for name in set(before) - set(learnt))
    assert "parameters from" in (again.path / "log.txt").read_text()

    net = models.network(asked.model, 7)
    models.initialize(net, asked.model, [mx.cpu()], 0)
    assert "new, for none there fits: heads" in models.load_weights(net, asked.model)
    other = asked.model.model_copy(update={"weights": str(tmp_path)})
    with pytest.raises(UserError, match="no run's"):
        models.load_weights(net, other)
    wide = config(model={"widths": [10, 20], "weights": str(first.path)}).model
    net = models.network(wide, 4)
    models.initialize(net, wide, [mx.cpu()], 0)
    with pytest.raises(UserError, match="it is of another network"):
        models.load_weights(net, wide)


def test_rollback_halves_the_rate_until_it_holds(tmp_path):
    wild = {"momentum": 0, "on_nan": "rollback", "epochs": 1}
    ends = []
    for lr, rollbacks in ((4, 1), (16, 3)):
        asked = config(train={**wild, "lr": lr}, model={"norm": "none"}, data={"train": 160})
        made = segtrain.train(asked, tmp_path / f"{lr}")
        found = state(made.path)
        assert found["rollbacks"] == rollbacks and len(made.history()) == 1
        assert found["optimizer"]["lr_scale"] == 0.5**rollbacks
        assert "rollback 1: from epoch 1, step 0" in (made.path / "log.txt").read_text()
        ends.append(fingerprint(made.path))
    assert ends[0] == ends[1]


def test_without_rollback_the_step_and_its_batch_are_named(tmp_path):
    with pytest.raises(SegtrainError) as caught:
        segtrain.train(config(train={"lr": 1e30}, model={"norm": "none"}), tmp_path / "run")
    told = str(caught.value)
    assert (
        "epoch 1, step 3: ce nan" in told and "its batch: train-0" in told and "largest weight" in told
    )
    with pytest.raises(SegtrainError, match="no longer a number"):
        wild = {"lr": 1e30, "on_nan": "rollback"}
        segtrain.train(config(train=wild, model={"norm": "none"}), tmp_path / "again")


def test_a_dry_run_leaves_a_picture_and_the_run_may_follow(config_file, tmp_path):
    out = tmp_path / "run"
    code, text = run("train", config_file, "--dry-run", "--out", out, "--json", tmp_path / "dry.json")
    assert code == 0, text
    assert [p.name for p in out.iterdir()] == ["dry-run.png"]
    assert cv2.imread(str(out / "dry-run.png")) is not None
    found = json.loads((tmp_path / "dry.json").read_text())
    assert set(found["stages"]) == {"data", "step", "evaluation", "save"}
    assert found["stages"]["step"]["times"] == 4 and found["images_per_second"] > 0
    assert found["peak_bytes"] > 1e8 and "bottleneck" in text
    code, text = run("train", config_file, "train.epochs=1", "--out", out)
    assert code == 0 and (out / "history.csv").exists()


def test_bench_of_a_config_names_the_bottleneck(config_file, tmp_path):
    code, text = run("bench", config_file, "--rounds", 1, "--json", tmp_path / "bench.json")
    assert code == 0, text
    found = json.loads((tmp_path / "bench.json").read_text())
    speeds = found["images_per_second"]
    assert set(speeds) == {"data", "step", "loop", "evaluation"} and min(speeds.values()) > 0
    assert found["loop_efficiency"] > 0 and found["bottleneck"] in text
    assert not list(tmp_path.glob("runs*"))


def test_quiet_says_nothing(config_file, tmp_path):
    process = start("train", config_file, "train.epochs=1", "--out", tmp_path / "run", "--quiet")
    assert process.communicate()[0] == "" and process.returncode == 0
    assert "epoch 1/1" in (tmp_path / "run/log.txt").read_text()


def test_batch_auto_takes_what_fits_and_resume_keeps_it(tmp_path, monkeypatch):
    from segtrain.training import trial

    asked = config(train={"batch": "auto", "epochs": 1})
    monkeypatch.setattr(trial, "LARGEST", 2)
    made = segtrain.train(asked, tmp_path / "run")
    assert made.config().train.batch == 2
    assert "batch: 2  # found by train.batch=auto" in (made.path / "config.yaml").read_text()
    segtrain.train(asked, made.path, resume=True)
    monkeypatch.setattr(trial.memory, "available", lambda: 1e6)
    with pytest.raises(UserError, match="not even one image"):
        segtrain.train(asked, tmp_path / "none")


@pytest.mark.parametrize(
    "said",
    [
        "pooled_storage_manager.h:157: cudaMalloc retry failed: out of memory",
        "cudnn_convolution-inl.h:171: Check failed: e == CUDNN_STATUS_SUCCESS (2 vs. 0) : cuDNN: "
        "CUDNN_STATUS_ALLOC_FAILED",
    ],
)
def test_what_a_gpu_says_of_its_memory(said):
    from segtrain.training import trial

    assert trial.is_of_memory(said) and not trial.is_of_memory("an illegal memory access")


def test_out_of_memory_says_what_would_fit(tmp_path):
    """In a process that may take little more memory than MXNet needs to start."""
    script = f"""
import resource, segtrain
from segtrain.config import parse
from segtrain.errors import UserError
import mxnet as mx, cv2
wide = {{**{VALUES["model"]!r}, "widths": [64, 128]}}
big = {{**{VALUES["data"]!r}, "crop": [512, 512]}}
config = parse({{"model": wide, "data": big, "train": {{"batch": 24}}}})
from segtrain.training import train as training
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, resource.RLIM_INFINITY))
try:
    segtrain.train(config, {str(tmp_path / "run")!r})
except UserError as error:
    print("TOLD", error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "TOLD out of memory with train.batch=24: write train.accumulate=2" in done.stdout, done


def test_memory_after_many_steps_is_that_after_few(tmp_path):
    peaks = {}

    def note(step):
        if step.number in (49, 299):
            with open("/proc/self/statm") as file:
                peaks[step.number] = int(file.read().split()[1]) * resource.getpagesize()

    tiny = config(train={"epochs": 50, "log_every": 1}, eval={"every": 50})
    segtrain.train(tiny, tmp_path / "run", on_step=note)
    assert peaks[299] <= 1.02 * peaks[49]


def test_a_file_that_vanishes_in_mid_run_is_named_and_the_run_can_go_on(config_file, folder, tmp_path):
    out = tmp_path / "run"
    process = start("train", config_file, "train.epochs=300", "--out", out)
    while not (out / "history.csv").exists():
        assert process.poll() is None
        time.sleep(0.01)
    image = folder / "train/images/03.png"
    kept = image.read_bytes()
    image.unlink()
    told = process.communicate(timeout=120)[0]
    assert process.returncode == 2 and "03.png" in told and "Traceback" not in told, told
    before = state(out)
    image.write_bytes(kept)
    process = start("train", out / "config.yaml", "--out", out, "--resume")
    while state(out)["epoch"] <= before["epoch"]:
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()


def test_a_killed_worker_ends_the_run_in_one_line(config_file, tmp_path):
    out = tmp_path / "run"
    process = start("train", config_file, "train.epochs=300", "data.workers=1", "--out", out)
    while not (out / "history.csv").exists():
        assert process.poll() is None
        time.sleep(0.01)
    workers = subprocess.run(
        ["pgrep", "-f", "forkserver", "-P", str(process.pid)], capture_output=True, text=True, check=True
    ).stdout.split()
    children = subprocess.run(
        ["pgrep", "-P", workers[0]], capture_output=True, text=True, check=True
    ).stdout.split()
    os.kill(int(children[0]), signal.SIGKILL)
    told = process.communicate(timeout=60)[0]
    assert process.returncode == 1 and "a loader process was killed" in told and "--resume" in told
    assert "Traceback" not in told and state(out)["epoch"] >= 1


def test_selftest_resume(monkeypatch, tmp_path):
    """A moment that comes after the run's end, which would prove nothing, is drawn anew."""
    monkeypatch.setattr("random.Random.uniform", lambda self, low, high: 1.3 * high)
    code, text = run("selftest", "resume", "--kills", "1", "--json", tmp_path / "result.json")
    assert code == 0, text
    assert "1 of 1 resumed runs ended at the same bits" in text
    (trial,) = json.loads((tmp_path / "result.json").read_text())["trials"]
    assert trial["equal"] and trial["where"].startswith(("after the save", "before the first save"))


def test_device_memory_is_not_asked_of_a_cpu():
    from segtrain.training.progress import memory

    assert memory(mx.cpu()) > 1e7


def test_a_loop_of_ones_own_takes_the_same_steps(tmp_path):
    from segtrain.machines.devices import contexts
    from segtrain.training.train import prepare

    steps = []
    segtrain.train(config(), tmp_path / "run", on_step=steps.append)
    own = []
    with prepare(config(), contexts("cpu")) as made:
        for epoch in range(made.config.train.epochs):
            made.learner.begin(epoch)
            for number, batch in enumerate(made.loader.epoch(epoch), epoch * len(made.loader)):
                made.learner.step(batch, number)
            own += made.learner.losses()
    assert own == steps
