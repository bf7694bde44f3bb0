import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from segtrain.config import Data
from segtrain.data import folder as format_
from segtrain.data import shapes
from segtrain.data.loader import open_loader
from segtrain.errors import SegtrainError, UserError

DATA = Data(name="shapes", crop=(32, 32), augment=["scale(0.5, 2)", "flip", "noise(5)"])


def loader(workers, count=13, batch=4, seed=0, data=DATA, dataset=None):
    dataset = dataset or shapes.build("train", size=(40, 48), train=count)
    return open_loader(dataset, data, 3, batch, seed, workers)


def collect(loading, epoch=0, start=0):
    return [(b.images.copy(), b.masks.copy(), b.indices) for b in loading.epoch(epoch, start)]


def test_an_epoch_holds_each_sample_once_and_a_short_last_batch():
    with loader(0) as loading:
        batches = collect(loading)
    assert [len(b[2]) for b in batches] == [4, 4, 4, 1] and len(loading) == 4
    assert sorted(sum((b[2] for b in batches), [])) == list(range(13))
    assert batches[0][0].shape == (4, 3, 32, 32) and batches[0][0].dtype == np.uint8


@pytest.mark.parametrize(
    "options",
    [{}, {"augment": ["mosaic(0.5)", "copy_paste(0.8)", "flip"], "cat_max_ratio": 0.6}],
)
def test_the_number_of_workers_changes_nothing(options):
    data = DATA.model_copy(update=options)
    with loader(0, data=data) as alone:
        wanted = [collect(alone, epoch) for epoch in (0, 1)]
    assert wanted[0][0][2] != wanted[1][0][2]
    for workers in (1, 3):
        with loader(workers, data=data) as loading:
            for epoch in (0, 1):
                for a, b in zip(wanted[epoch], collect(loading, epoch)):
                    assert (a[0] == b[0]).all() and (a[1] == b[1]).all() and a[2] == b[2]


def test_samples_are_put_together_from_different_ones():
    """Each shapes sample is its own: a mosaic of one with itself would change with nothing else."""
    data = DATA.model_copy(update={"augment": ["copy_paste(1)"], "crop": (40, 48)})
    samples = shapes.build("train", size=(40, 48), train=2)
    with loader(0, count=2, data=data) as loading:
        images, _, indices = collect(loading)[0]
    for image, index in zip(images, indices):
        own, other = (samples.read(i).image.transpose(2, 0, 1) for i in (index, 1 - index))
        assert ((image == own) | (image == other)).all() and not (image == own).all()
    with loader(0, count=1, data=data) as alone:
        assert (collect(alone)[0][0][0] == samples.read(0).image.transpose(2, 0, 1)).all()


def test_an_epoch_can_start_in_the_middle():
    with loader(1) as loading:
        whole, rest = collect(loading, 3), collect(loading, 3, start=2)
    assert len(rest) == 2
    assert all((a[0] == b[0]).all() for a, b in zip(whole[2:], rest))


def test_an_epoch_left_early_doesnt_disturb_the_next():
    with loader(2) as loading:
        next(iter(loading.epoch(0)))
        after = collect(loading, 1)
    with loader(0) as alone:
        assert all((a[0] == b[0]).all() for a, b in zip(collect(alone, 1), after))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_workers_error_names_the_file(folder, workers):
    dataset = format_.build("train", root=folder, classes=shapes.CLASSES)
    (folder / "train/images/04.png").write_bytes(b"no picture")
    loading = loader(workers, dataset=dataset, data=Data(crop=(32, 32)))
    with loading, pytest.raises(UserError, match=r"04\.png"):
        collect(loading)


def test_a_killed_worker_is_an_error_within_seconds():
    with loader(2, count=400) as loading:
        batches = loading.epoch(0)
        next(batches)
        os.kill(next(iter(loading._pool._processes)), signal.SIGKILL)
        start = time.monotonic()
        with pytest.raises(SegtrainError, match=r"killed.*data\.workers"):
            for _ in batches:
                pass
        assert time.monotonic() - start < 5


def test_no_thread_is_left_that_python_would_meet_at_its_end():
    before = set(threading.enumerate())
    with loader(2):
        pass
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("in_a_file", [True, False])
def test_a_script_that_the_workers_cannot_import(tmp_path, config_file, in_a_file):
    script = tmp_path / "script.py"
    script.write_text(f"import segtrain\nsegtrain.train({str(config_file)!r}, 'run')\n")
    config_file.write_text(config_file.read_text().replace("workers: 0", "workers: 1"))
    command = [sys.executable, *([str(script)] if in_a_file else [])]
    given = None if in_a_file else script.read_text()
    done = subprocess.run(command, input=given, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "a file and do so under if __name__ == '__main__':" in done.stderr.splitlines()[-1]


def test_workers_end_with_a_killed_parent(tmp_path):
    script = """
import sys, time
from segtrain.config import Data
from segtrain.data import shapes
from segtrain.data.loader import open_loader
loading = open_loader(shapes.build("train", size=(40, 48)), Data(crop=(32, 32)), 3, 4, 0, 2)
next(loading.epoch(0))
print(*loading._pool._processes, flush=True)
time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    workers = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(workers) == 2
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 10
    while any(os.path.exists(f"/proc/{pid}") for pid in workers):
        assert time.monotonic() < deadline, "a worker outlived its parent"
        time.sleep(0.1)


def test_another_number_of_channels_is_named():
    data = shapes.build("train", size=(40, 48))
    with open_loader(data, DATA, 1, 4, 0, 0) as loading, pytest.raises(UserError, match="in_channels"):
        collect(loading)
