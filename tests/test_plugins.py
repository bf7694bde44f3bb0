"""Networks, datasets, losses, augmentations and measures of the user's own, from a file of theirs."""

import json
import os
import subprocess
import sys

import pytest
from conftest import run, start

from segtrain import plugins
from segtrain.cli.app import _plugins_first
from segtrain.data import augment, augment1d
from segtrain.errors import UserError

OWN = '''
import numpy as np

from segtrain.data.dataset import Sample
from segtrain.layers import Chain
from segtrain.measures import Result
from segtrain.plugins import augmentation, dataset, loss, loss_per_image, measure, model


@model
def mynet(classes, blocks, *, width: int = 4):
    """width: channels of its one layer."""
    return Chain(blocks.convs(width), blocks.head(classes))


class Halves:
    classes, ignore, dtype, problems, ids = ["left", "right"], 255, "uint8", [], ["a", "b", "c"]

    def name(self, index):
        return self.ids[index]

    def files(self, index):
        return ()

    def read(self, index):
        mask = np.zeros((16, 16), np.uint8)
        mask[:, 8:] = 1
        return Sample(np.repeat(100 * mask[..., None] + index, 3, axis=2), mask)


@dataset
def halves(split):
    return Halves()


@loss
def wrong(share, *, power: float = 1.0):
    return share.F.sum((1 - share.F.exp(share.picked)) ** power * share.weights)


@loss_per_image
def one(share):
    return 0 * share.F.sum(share.picked) + share.F.sum(share.F.ones_like(share.ids)) / 256


@augmentation
def brighter(rng, image, most):
    return np.clip(image + rng.uniform(0, most), 0, 255).astype(np.uint8)


class Seen:
    probabilistic = images_only = False
    count = 0

    def add(self, truth, predicted, probabilities):
        self.count += 1
        return {"pixels": float(truth.size)}

    def result(self):
        return Result({"seen": float(self.count)}, "images that were seen")


@measure
def seen(classes, ignore):
    return Seen()
'''
CONFIG = """
model: {name: mynet, width: 5}
data: {name: halves, crop: [16, 16], augment: [flip, brighter(20)], workers: 1}
train: {epochs: 1, batch: 2, loss: {ce: 1, wrong: {weight: 0.5, power: 2}, one: 0.25}}
"""


@pytest.fixture
def home(tmp_path):
    (tmp_path / "mine.py").write_text(OWN)
    (tmp_path / "own.yaml").write_text(CONFIG)
    return tmp_path


def ended(*arguments, **options):
    process = start(*arguments, **options)
    text = process.communicate(timeout=300)[0]
    return process.returncode, text


def test_a_run_of_ones_own_parts_trains_is_scored_exported_and_resumed(home):
    own = ("--plugins", "mine.py")
    code, text = ended("train", "own.yaml", *own, cwd=home)
    assert code == 0, text
    header, row = (home / "runs/own/history.csv").read_text().splitlines()
    told = dict(zip(header.split(","), row.split(",")))
    assert float(told["loss_one"]) == pytest.approx(0.25)  # over images, its weight included
    assert 0 < float(told["loss_wrong"]) < 0.5

    code, text = ended("eval", "runs/own", "--metrics", "seen", "--json", "s.json", *own, cwd=home)
    assert code == 0 and "images that were seen" in text, text
    assert json.loads((home / "s.json").read_text())["seen"] == 3

    code, text = run("eval", home / "runs/own")  # the run's config alone brings no code
    assert code == 2 and "no 'mynet'" in text and "--plugins FILE.py" in text

    (home / "mine.py").write_text(OWN + "\n")
    code, text = ended("train", "own.yaml", "--resume", *own, cwd=home)
    assert code == 0 and "mine.py has changed since this run began" in text, text


def test_a_config_runs_no_code(home):
    (home / "mine.py").write_text("raise SystemExit('it ran')")
    for key in (
        "plugins=mine.py",
        "model.name=mine",
        "model.name=mine.py",
        f"model.name={home}/mine.py",
    ):
        code, text = run("show", "own.yaml", key, cwd=home)
        assert code == 2 and "it ran" not in text


@pytest.mark.parametrize(
    "content, told",
    [
        ("x = 1 / 0", "mine.py:1: ZeroDivisionError: division by zero"),
        ("def f(:", "SyntaxError"),
        (
            "from segtrain.plugins import model\n@model\ndef a(n, blocks): ...",
            "a's parameters must begin with classes, blocks",
        ),
        (
            "from segtrain.plugins import model\n@model\ndef unet(classes, blocks): ...",
            "unet is one of segtrain's models: call yours otherwise",
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_one_clear_line(home, content, told):
    (home / "mine.py").write_text(content)
    code, text = ended("config", "explain", "own.yaml", "model", "--plugins", "mine.py", cwd=home)
    assert code == 2 and told in text and "Traceback" not in text


def test_a_file_that_is_not_there_or_has_a_name_that_is_taken(home):
    code, text = run("show", "own.yaml", "--plugins=none.py", cwd=home)
    assert code == 2 and "--plugins none.py: there is no such file" in text
    for name in ("no.such", "mine.yaml", "/tmp"):
        code, text = run("show", "own.yaml", "--plugins", name, cwd=home)
        assert code == 2 and f"--plugins {name}: no file FILE.py, and no module" in text
    (home / "json.py").write_text("")
    code, text = run("show", "own.yaml", "--plugins", "json.py", cwd=home)
    assert code == 2 and "rename the file" in text


def test_what_follows_a_dash_dash_is_another_commands():
    words = ["launch", "-n", "2", "--plugins", "a.py", "--", "train", "c.yaml", "--plugins", "b.py"]
    assert _plugins_first(words) == [*words[3:5], *words[:3], *words[5:]]


def test_an_augmentation_of_signals_is_none_of_images(monkeypatch):
    monkeypatch.setattr(plugins, "_own", {"augmentations": {}})

    @plugins.augmentation
    def shift(rng, signal):
        return signal + 1

    assert augment1d.parse(["shift"])[0].takes == "signal"
    with pytest.raises(UserError, match="changes a signal"):
        augment.parse(["shift"])


def test_a_variable_names_plug_ins_too_and_from_python_an_import_does(home):
    variables = {**os.environ, "SEGTRAIN_PLUGINS": "mine.py"}
    code, text = ended("config", "explain", "own.yaml", "model.width", cwd=home, env=variables)
    assert code == 0 and "channels of its one layer" in text
    script = "import mine; from segtrain import plugins; assert 'mynet' in plugins.names('models')"
    subprocess.run([sys.executable, "-c", script], cwd=home, check=True)


def test_a_path_may_hold_what_separates_paths(home):
    """For the processes begun from there too, and after a name without one."""
    (home / "run:1").mkdir()
    (home / "mine.py").rename(home / "run:1/mi:ne.py")
    (home / "other.py").write_text("")
    child = "from segtrain import plugins; plugins.use_known(); print(plugins.names('models'))"
    script = (
        "import subprocess, sys; from segtrain import plugins\n"
        "plugins.use('other.py'); plugins.use('run:1/mi:ne.py')\n"
        f"assert plugins.known() == [{str(home / 'other.py')!r}, {str(home / 'run:1/mi:ne.py')!r}]\n"
        f'subprocess.run([sys.executable, "-c", {child!r}], cwd="/", check=True)'
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=home, capture_output=True, text=True)
    assert "'mynet'" in done.stdout, done.stderr
