"""The command line as a newcomer meets it: every mistake is one clear line and exit code 2."""

import errno
import json
import os
import shutil
import stat
import subprocess
import sys

import cv2
import numpy as np
import pytest
import typer
from conftest import run

from segtrain.cli import app
from segtrain.cli.wording import worded


def refused(text, *parts):
    assert "Traceback" not in text
    lines = [line for line in text.splitlines() if line.startswith("segtrain: ")]
    assert len(lines) == 1, text
    for part in parts:
        assert part in lines[0], lines[0]


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("train.epocs=3", ["no key train.epocs", "epochs"]),
        ("train.learning_rate=1", ["no key train.learning_rate; did you mean lr?"]),
        ("model.backbone=resnet18_v1b", ["model.backbone", "did you mean encoder?"]),
        ("data.clases=[a]", ["data.clases", "classes"]),
        ("model.wdths=[8]", ["model.wdths", "widths"]),
        ("data.crop=256", ["data.crop=256: a list is wanted, like [256, 256]"]),
        ("train.loss=dice", ["train.loss='dice': keys with values are wanted, like {a: 1}"]),
        ("data.classes='a,b'", ["data.classes='a,b': a list is wanted, like [a, b]"]),
        ("train.epochs=few", ["train.epochs='few': a whole number is wanted"]),
        ("train.batch=0", ["train.batch=0: input should be greater than 0"]),
        ("model.name=gridnet", ["model.units: gridnet has no such option"]),
        ("data.root=/no/where", ["/no/where", "data.root"]),
        ("data.name=foldr", ["foldr", "folder"]),
        ("data.augment=[flop]", ["flop", "flip"]),
        ("train.loss={dise: 1}", ["dise", "dice"]),
        ("train.class_weights=[1, 2]", ["2 numbers for 4 classes"]),
        ("data.splits={train: other}", ["no split 'train'"]),
        ("data.mean=[1, 2]", ["data.mean has 2 values for 3 channels"]),
        ("model.in_channels=1", ["in_channels"]),
        ("data.crop=[33, 32]", ["multiples of 2", "data.crop=[32, 32]"]),
        ("data.workers=-1", ["data.workers", "0"]),
        ("data.augment=[scale(0, 1)]", ["must be positive"]),
        ("train.milestones=[]", ["milestones"]),
        ("model.widths=[]", ["model.widths"]),
        ("model.widths=[0, 4]", ["model.widths"]),
        ("model.units=0", ["model.units"]),
        ("model.dim=1", ["model.dim=2"]),
        ("train.kvstore=nccl", ["train.kvstore=device"]),
    ],
)
def test_a_mistake_in_the_config(config_file, tmp_path, override, parts):
    code, text = run("train", config_file, override, "--out", tmp_path / "run")
    assert code == 2
    refused(text, *parts)


def _colour(folder):
    colours = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    cv2.imwrite(str(folder / "train/masks/00.png"), colours)


def _truncate(folder):
    path = folder / "val/images/01.png"
    path.write_bytes(path.read_bytes()[:200])


@pytest.mark.parametrize(
    ("harm", "parts"),
    [
        (lambda f: (f / "train/masks/01.png").unlink(), ["images/01.png", "without a mask"]),
        (lambda f: (f / "val/images/01.png").unlink(), ["masks/01.png", "without an image"]),
        (
            lambda f: cv2.imwrite(str(f / "val/masks/01.png"), np.zeros((8, 9), np.uint8)),
            ["val/masks/01.png", "9x8", "64x48"],
        ),
        (_truncate, ["val/images/01.png", "decoded"]),
        (_colour, ["train/masks/00.png", "colour mask"]),
        (
            lambda f: cv2.imwrite(str(f / "train/masks/02.png"), np.full((48, 64), 9, np.uint8)),
            ["train/masks/02.png", "holds 9", "data.label_map"],
        ),
        (lambda f: [p.unlink() for p in (f / "val").rglob("*.png")], ["'val' is empty"]),
        (lambda f: shutil.rmtree(f / "train"), ["no split 'train'"]),
    ],
)
def test_a_fault_in_the_dataset_stops_before_the_first_step(config_file, folder, tmp_path, harm, parts):
    harm(folder)
    code, text = run("train", config_file, "--out", tmp_path / "run")
    assert code == 2
    refused(text, *parts)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("devices", "part"),
    [("gpu:7", "a CPU build"), ("tpu", "write auto"), ("cpu:0,0", "twice"), ("", "write auto")],
)
def test_a_device_that_isnt_there(config_file, tmp_path, devices, part):
    code, text = run("train", config_file, "--devices", devices, "--out", tmp_path / "run")
    assert code == 2
    refused(text, part)


@pytest.mark.parametrize("command", ["eval", "export", "predict"])
def test_a_folder_that_is_no_run(command, folder, tmp_path):
    more = {
        "eval": [],
        "export": ["--out", tmp_path / "b"],
        "predict": [folder, "--out", tmp_path / "m"],
    }
    for path, part in ((folder, "isn't a run folder"), (tmp_path / "no", "doesn't exist")):
        code, text = run(command, path, *more[command])
        assert code == 2
        refused(text, part)


def test_a_missing_config(tmp_path):
    code, text = run("train", tmp_path / "no.yaml")
    assert code == 2
    refused(text, "no.yaml")


def test_a_folder_for_a_config(config_file, folder, tmp_path):
    code, text = run("train", folder.name, cwd=tmp_path)
    assert code == 2
    refused(text, "data is a folder", "segtrain init data --out data.yaml")


def test_a_run_finds_its_dataset_from_another_folder(config_file, folder, tmp_path):
    config_file.write_text(config_file.read_text().replace(str(folder), folder.name))
    code, text = run("train", config_file, "train.epochs=1", "--out", "run", cwd=tmp_path)
    assert code == 0, text
    refused(run("train", tmp_path / "run")[1], f"the run's is {tmp_path / 'run/config.yaml'}")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    code, text = run("eval", tmp_path / "run", cwd=elsewhere)
    assert code == 0, text
    folder.rename(tmp_path / "moved")
    code, text = run("eval", tmp_path / "run", cwd=elsewhere)
    assert code == 2
    refused(text, f"no folder {elsewhere / 'data'}: set data.root", "folder you are in", "config.yaml")
    (tmp_path / "moved").rename(elsewhere / "data")
    code, text = run("eval", tmp_path / "run", cwd=elsewhere)
    assert code == 0, text


def test_a_read_only_folder(config_file, tmp_path):
    """As an ordinary user, whom the permissions bind."""
    locked = tmp_path / "locked"
    locked.mkdir()
    locked.chmod(stat.S_IRUSR | stat.S_IXUSR)
    command = [sys.executable, "-m", "segtrain", "train", str(config_file), "--out", str(locked / "run")]
    drop = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
    if drop and not shutil.which("setpriv"):
        pytest.skip("setpriv is needed to give up root's rights")
    done = subprocess.run([*drop, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    refused(done.stderr, "locked", "can't be written")


def test_a_full_disk(config_file, tmp_path):
    namespace = ["unshare", "--user", "--map-root-user", "--mount"]
    if not shutil.which("unshare") or subprocess.run([*namespace, "true"], check=False).returncode:
        pytest.skip("no user namespaces here to mount a small disk in")
    small = tmp_path / "small"
    small.mkdir()
    train = f'"{sys.executable}" -m segtrain train {config_file} --out {small}/run model.widths=[32,64]'
    script = f"mount -t tmpfs -o size=200k tmpfs {small} && {train}; code=$?; ls {small}/run; exit $code"
    done = subprocess.run([*namespace, "sh", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    refused(done.stderr, "the disk is full")
    assert "config.yaml" in done.stdout


def test_debug_shows_the_traceback(config_file):
    command = [sys.executable, "-m", "segtrain", "train", str(config_file), "data.root=/no", "--debug"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "Traceback" in done.stderr and "segtrain: no folder" in done.stderr


def test_show_counts_and_needs_no_data(config_file, tmp_path):
    code, text = run("show", config_file, "data.root=/no/where", "--json", "-")
    assert code == 0
    result = json.loads(text)
    assert result["input"] == [1, 3, 32, 32] and result["stride"] == 2
    # two norms of 2 per channel each way, 3x3 convolutions, one 2x2 deconvolution, the head
    convolutions = 9 * (3 * 8 + 8 * 16 + 16 * 8)
    assert result["parameters"] == convolutions + 2 * (8 + 16 + 8) + (16 * 8 * 4 + 8) + 8 * 4 + 4
    per_pixel = 9 * 3 * 8 + 9 * 8 * 16 / 4 + 16 * 8 * 4 / 4 + 9 * 16 * 8 + 8 * 4
    assert result["flops"] == 2 * 32 * 32 * per_pixel
    assert {"name", "type", "output_shape", "parameters"} <= set(result["layers"][0])
    code, text = run("show", config_file)
    assert code == 0 and "parameters" in text and "Deconvolution" in text


def test_show_without_classes(tmp_path):
    (tmp_path / "a.yaml").write_text("model: {name: unet}")
    code, text = run("show", tmp_path / "a.yaml")
    assert code == 2
    refused(text, "model.classes")
    code, _ = run("show", tmp_path / "a.yaml", "model.classes=3")
    assert code == 0


def test_train_json_and_eval_of_a_missing_split(config_file, tmp_path):
    code, text = run(
        "train", config_file, "train.epochs=1", "--out", tmp_path / "run", "--json", tmp_path / "r.json"
    )
    assert code == 0 and "segtrain eval" in text
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["history"][0]["epoch"] == 1 and result["best"]["epoch"] == 1
    code, text = run("eval", tmp_path / "run", "--split", "test")
    assert code == 2
    refused(text, "no split 'test'")
    code, text = run("eval", tmp_path / "run", "--scales", "a,b")
    assert code == 2
    refused(text, "--scales")


def test_every_command_has_help_with_an_example():
    code, text = run("--help")
    assert code == 0
    for command in ("average", "compare", "train", "eval", "predict", "export", "show", "demo"):
        assert command in text
        code, helped = run(command, "--help")
        assert code == 0 and f"segtrain {command}" in helped and "--debug" in helped
        assert "--json" in helped


def test_demo_refuses_a_folder_that_is_taken(folder):
    code, text = run("demo", "--out", folder)
    assert code == 2
    refused(text, "exists")


def test_a_name_that_is_not_utf8_is_told(tmp_path, folder):
    for path in sorted(folder.rglob("00.png")):
        path.rename(path.with_name(os.fsdecode(b"caf\xe9.png")))
    shutil.rmtree(folder / "val")  # so that list files are to be written
    code, text = run("init", folder, "--out", tmp_path / "made.yaml")
    assert code == 2
    refused(text, "caf\\udce9.png", "rename the file")
    assert not list(tmp_path.glob("made*"))


def test_an_error_names_the_file_that_was_asked_for():
    """And not the one aside in which it is written first."""
    line, code = worded(OSError(errno.EROFS, "Read-only file system", "out/.c.yaml.4854"))
    assert code == 2 and line.startswith("out/c.yaml: can't be written (Read-only file system)")


def test_no_argument_that_takes_several_has_a_list_as_its_default():
    """The click that runs on Python 3.8 and 3.9 refuses one, and with it every command."""
    groups = [typer.main.get_command(app)]
    while groups:
        command = groups.pop()
        groups += getattr(command, "commands", {}).values()
        several = [p for p in command.params if p.nargs == -1]
        assert not [p.name for p in several if isinstance(p.default, (list, tuple))], command.name
