"""`segtrain runs` against runs that were trained, are training, were stopped or are damaged."""

import json
import shutil
import signal
import time

import pytest
from conftest import run, start

from segtrain.run import Run
from segtrain.runs import ORDERS, runs


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """a finished, with another model group/b, c stopped, d and e broken, and things that are no runs."""
    tmp = tmp_path_factory.mktemp("runs")
    config = tmp / "tiny.yaml"
    config.write_text(
        "model: {name: unet, widths: [8, 16], units: 1}\n"
        "data: {name: shapes, size: [32, 32], train: 8, val: 4, crop: [32, 32], workers: 0}\n"
        "train: {epochs: 2, batch: 4}\n"
    )
    home = tmp / "home"
    assert run("train", config, "--out", home / "a")[0] == 0
    other = ["model={name: resunet, widths: [8, 16]}", "train.epochs=1"]
    assert run("train", config, *other, "--out", home / "group" / "b")[0] == 0
    stopped = start("train", config, "train.epochs=100000", "--out", home / "c")
    while not (home / "c" / "history.csv").exists():
        assert stopped.poll() is None
        time.sleep(0.1)
    stopped.send_signal(signal.SIGTERM)
    stopped.communicate(timeout=60)
    assert stopped.returncode == 130
    for name in "de":
        shutil.copytree(home / "a", home / name)
    (home / "d" / "config.yaml").write_text("train: {lrr: 1}")
    (home / "e" / "history.csv").write_text("epoch,miou\n1,high\n")
    (home / "notes").mkdir()
    (home / "notes.txt").write_text("")
    return home


def listed(home, *options):
    code, text = run("runs", home, *options, "--json", "-")
    assert code == 0, text
    return {row["name"]: row for row in json.loads(text)}


def test_each_run_with_what_it_reached(home):
    found = listed(home)
    assert set(found) == {"a", "group/b", "c", "d", "e"}
    a, b, c = found["a"], found["group/b"], found["c"]
    assert (a["model"], a["epoch"], a["epochs"], a["state"]) == ("unet", 2, 2, "finished")
    assert a["miou"] == pytest.approx(Run(home / "a").best()["miou"])
    history = Run(home / "a").history()
    assert a["seconds"] == pytest.approx(sum(row["seconds"] for row in history))
    speeds = [row["images_per_second"] for row in history]
    assert min(speeds) <= a["images_per_second"] <= max(speeds)
    assert (b["model"], b["state"]) == ("resunet", "finished")
    assert c["state"] == "stopped" and 1 <= c["epoch"] < c["epochs"] == 100000


def test_broken_runs_are_shown_as_such(home):
    found = listed(home)
    assert found["d"]["state"] == found["e"]["state"] == "broken"
    assert "no key train.lrr" in found["d"]["problem"]
    assert "e/history.csv" in found["e"]["problem"] and "high" in found["e"]["problem"]
    code, text = run("runs", home)
    assert code == 0 and "broken" in text and "no key train.lrr" in text


def test_a_run_whose_checkpoints_are_gone_is_broken(home, tmp_path):
    shutil.copytree(home / "a", tmp_path / "a")
    shutil.rmtree(tmp_path / "a" / "checkpoints")
    assert listed(tmp_path)["a"]["state"] == "broken"


def test_a_run_that_stopped_early_is_finished(home, tmp_path):
    shutil.copytree(home / "a", tmp_path / "a")
    config = (tmp_path / "a" / "config.yaml").read_text()
    config = config.replace("epochs: 2 ", "epochs: 9 ").replace("early_stop: 0 ", "early_stop: 2 ")
    (tmp_path / "a" / "config.yaml").write_text(config)
    head = "epoch,miou,pixel_accuracy,images_per_second,seconds\n"
    for scores, state in (("0.5 0.4 0.5", "finished"), ("0.5 0.4 0.6 0.3", "stopped")):
        rows = [f"{n},{score},0.5,10,1\n" for n, score in enumerate(scores.split(), 1)]
        (tmp_path / "a" / "history.csv").write_text("".join([head, *rows]))
        assert listed(tmp_path)["a"]["state"] == state


def test_a_run_that_is_training(home, tmp_path):
    """Its lock is held; looking doesn't take it, nor keep it from being taken."""
    shutil.copytree(home / "a", tmp_path / "a")
    with Run(tmp_path / "a").locked():
        assert listed(tmp_path)["a"]["state"] == "running"
    assert listed(tmp_path)["a"]["state"] == "finished"
    with Run(tmp_path / "a").locked():
        pass


@pytest.mark.parametrize("key", ORDERS)
def test_sorted_by_any_column_with_gaps_last(home, key):
    values = [row[key] for row in runs(home, key)]
    known = [value for value in values if value is not None]
    assert values == known + [None] * (len(values) - len(known))
    assert known == sorted(known, reverse=ORDERS[key])


def test_a_long_name_is_whole_where_there_is_no_terminal(home, tmp_path):
    name = "a-name-of-" + "many-words-" * 8
    shutil.copytree(home / "a", tmp_path / name)
    code, text = run("runs", tmp_path)
    assert code == 0 and name in text


def test_one_run_alone(home):
    assert list(listed(home / "a")) == ["a"]


def test_what_cant_be_listed(home, tmp_path):
    code, text = run("runs", tmp_path / "nowhere")
    assert code == 2 and "no folder" in text
    code, text = run("runs", home, "--sort", "iou")
    assert code == 2 and "miou" in text
    code, text = run("runs", tmp_path)
    assert code == 0 and "no runs" in text
