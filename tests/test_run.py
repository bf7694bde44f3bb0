"""The run folder under bad luck: full disks, damaged files, kills in the middle of a save."""

import fcntl
import os
import shutil
import subprocess
import sys
import threading

import mxnet as mx
import pytest

from segtrain.errors import UserError
from segtrain.prediction import pictures
from segtrain.run import Run, pack, write


def arrays(value):
    return {"model": {"a.weight": mx.nd.full((3, 4), value)}}


@pytest.fixture
def made(tmp_path):
    run = Run.create(tmp_path / "run")
    write(run.path / "config.yaml", "seed: 0\n")
    for value in (1, 2):
        run.save("last", arrays(value), {"step": value})
    return run


def load(run):
    kept, state = run.load("last", ("model",))
    assert (kept["model"]["a.weight"] == state["step"]).min().asscalar() == 1
    return state["step"]


def test_a_checkpoint_reads_back(made):
    assert load(made) == 2


def test_params_are_mxnets_own_format(tmp_path):
    (tmp_path / "a.params").write_bytes(pack(arrays(7)["model"]))
    assert mx.nd.load(str(tmp_path / "a.params"))["a.weight"].sum().asscalar() == 84


@pytest.mark.parametrize("damage", ["cut", "flip", "missing", "state"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(made, damage):
    path = made.path / "checkpoints/last/model.params"
    data = path.read_bytes()
    if damage == "cut":
        path.write_bytes(data[:-5])
    elif damage == "flip":
        path.write_bytes(data[:-5] + bytes([data[-5] ^ 1]) + data[-4:])
    elif damage == "missing":
        path.unlink()
    else:
        path.with_name("state.json").write_text("{")
    assert load(made) == 1
    assert "last is damaged" in (made.path / "log.txt").read_text()


def test_killed_between_the_two_renames(made):
    shutil.rmtree(made.path / "checkpoints/last.previous")
    (made.path / "checkpoints/last").rename(made.path / "checkpoints/last.previous")
    assert load(made) == 2
    made.save("last", arrays(3), {"step": 3})
    assert load(made) == 3


def test_killed_while_writing(made):
    half = made.path / "checkpoints/.last.new"
    half.mkdir()
    (half / "model.params").write_bytes(b"half")
    assert load(made) == 2
    made.save("last", arrays(3), {"step": 3})
    assert load(made) == 3 and not half.exists()


@pytest.mark.parametrize(
    ("keep", "left"), [(2, ["e-3", "e-4"]), (9, ["e-1", "e-2", "e-3", "e-4"]), (0, [])]
)
def test_pruning_keeps_the_newest_also_where_one_was_saved_again(made, keep, left):
    for number in (1, 2, 3, 4, 4):  # the last one again, after a kill
        made.save(f"e-{number}", arrays(number), {"step": number})
    made.prune("e-", keep)
    assert sorted(p.name for p in (made.path / "checkpoints").glob("e-*")) == left
    assert load(made) == 2


def test_no_checkpoint(tmp_path):
    with pytest.raises(UserError, match="no checkpoint"):
        Run.create(tmp_path / "run").load("last", ())


def test_what_is_no_run(tmp_path):
    with pytest.raises(UserError, match="doesn't exist"):
        Run.open(tmp_path / "nothing")
    with pytest.raises(UserError, match="isn't a run folder"):
        Run.open(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="exists"):
        Run.create(tmp_path)


def test_the_second_process_is_refused(made):
    with made.locked(), pytest.raises(UserError, match="another process"), made.locked():
        pytest.fail("two have it")


def test_a_look_at_the_lock_refuses_nobody(made):
    """As `segtrain runs` looks: it shares the lock for a moment."""
    look = os.open(made.path / ".lock", os.O_RDONLY | os.O_CREAT)
    fcntl.flock(look, fcntl.LOCK_SH)
    threading.Timer(0.05, os.close, [look]).start()
    with made.locked():
        pass


def test_a_full_disk_harms_nothing(tmp_path):
    """On a real file system of 300 kB: the save that doesn't fit fails, the one before stays."""
    namespace = ["unshare", "--user", "--map-root-user", "--mount"]
    if not shutil.which("unshare") or subprocess.run([*namespace, "true"], check=False).returncode:
        pytest.skip("no user namespaces here to mount a small disk in")
    script = f"""
import errno, mxnet as mx
from pathlib import Path
from segtrain.run import Run
run = Run(Path({str(tmp_path)!r}))
run.save("last", {{"model": {{"a": mx.nd.ones(100)}}}}, {{"step": 1}})
try:
    run.save("last", {{"model": {{"a": mx.nd.ones(1000000)}}}}, {{"step": 2}})
except OSError as error:
    assert error.errno == errno.ENOSPC, error
    assert error.filename.endswith("checkpoints/.last.new/model.params"), error
else:
    raise AssertionError("it fitted")
assert run.load("last", ("model",))[1]["step"] == 1
"""
    mount = f"mount -t tmpfs -o size=300k tmpfs {tmp_path}"
    command = [*namespace, "sh", "-c", f'{mount} && exec "{sys.executable}" -', "sh"]
    done = subprocess.run(command, input=script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("write_file", [write, pictures.write])
def test_what_is_no_file_stays_what_it_is(tmp_path, write_file):
    """A device or a pipe is written to; a renamed file would take its place (and /dev/null's)."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_file(pipe, b"content")
    assert os.read(reader, 100) == b"content" and pipe.is_fifo() and len(os.listdir(tmp_path)) == 1
    os.close(reader)
