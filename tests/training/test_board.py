"""TensorBoard reads each step of a run once, whenever the run was killed."""

import os
import resource
import signal
import subprocess
import sys

import cv2
import numpy as np
import pytest
from conftest import read_events
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from segtrain.data import shapes
from segtrain.training.board import Board, pictures


def test_scalars_and_images_are_read_back(tmp_path):
    board = Board(tmp_path)
    board.scalars(10, {"loss/ce": 0.5, "IoU/traffic light": 0.25, "miou": None})
    board.scalars(20, {"loss/ce": 0.25})
    picture = np.full((20, 30, 3), (200, 100, 50), np.uint8)
    board.images(20, {"val/a": picture})
    board.close()
    scalars, images = read_events(tmp_path)
    assert scalars == {"loss/ce": [(10, 0.5), (20, 0.25)], "IoU/traffic light": [(10, 0.25)]}
    ((image,),) = images.values()
    assert (image.step, image.width, image.height) == (20, 30, 20)
    decoded = cv2.imdecode(np.frombuffer(image.encoded_image_string, np.uint8), cv2.IMREAD_COLOR)
    assert np.abs(decoded[:, :, ::-1].astype(int) - picture).max() <= 4


@pytest.mark.parametrize("seed", range(10))
def test_a_run_killed_again_and_again_leaves_each_step_once(tmp_path, seed):
    """It evaluates every 7 steps and saves every 3 and after each evaluation."""
    rng = np.random.default_rng(seed)
    saved, deaths = 0, 0
    while saved < 40:
        dies_after = rng.integers(1, 30)
        board, step = Board(tmp_path, saved), saved
        while step < 40 and dies_after:
            dies_after -= 1
            step += 1
            board.scalars(step, {"loss": step / 64})
            if step % 7 == 0:
                board.scalars(step, {"miou": step / 128})
                board.images(step, {"val": np.full((4, 4, 3), step, np.uint8)})
                if rng.random() < 0.3:
                    break  # killed between the events of a step and its checkpoint
            if step % 3 == 0 or step % 7 == 0 or step == 40:
                saved = step
        deaths += 1
        if rng.random() < 0.5:  # in the middle of a write
            newest = max((tmp_path / "events").iterdir())
            newest.write_bytes(newest.read_bytes() + newest.read_bytes()[-30:-4])
    assert deaths > 1
    scalars, images = read_events(tmp_path)
    assert scalars["loss"] == [(step, step / 64) for step in range(1, 41)]
    assert scalars["miou"] == [(step, step / 128) for step in range(7, 41, 7)]
    assert [image.step for image in images["val"]] == list(range(7, 41, 7))


def test_what_was_written_before_a_kill_is_there(tmp_path):
    code = (
        "import os, signal, sys; from pathlib import Path; from segtrain.training.board import Board\n"
        "Board(Path(sys.argv[1])).scalars(1, {'loss': 2.0})\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)])
    assert done.returncode == -signal.SIGKILL
    assert read_events(tmp_path)[0] == {"loss": [(1, 2.0)]}


def test_a_checkpoint_of_the_same_step_doesnt_double_its_evaluation(tmp_path):
    """Killed after a step's events and before the save, where that step had been saved before."""
    first = Board(tmp_path)
    first.scalars(5, {"loss": 1.0})
    first.scalars(5, {"miou": 0.5})
    again = Board(tmp_path, 5)
    again.scalars(5, {"miou": 0.5, "accuracy": 0.75})
    again.scalars(6, {"loss": 0.5})
    assert read_events(tmp_path)[0] == {
        "loss": [(5, 1.0), (6, 0.5)],
        "miou": [(5, 0.5)],
        "accuracy": [(5, 0.75)],
    }


def test_rewind_goes_back_within_one_process(tmp_path):
    board = Board(tmp_path)
    for step in (1, 2, 3):
        board.scalars(step, {"loss": float(step)})
    board.rewind(1)
    board.scalars(2, {"loss": 9.0})
    board.close()
    assert read_events(tmp_path)[0] == {"loss": [(1, 1.0), (2, 9.0)]}


def test_a_tensorboard_that_watches_forgets_what_is_trained_again(tmp_path):
    first = Board(tmp_path)
    for step in (1, 2, 3):
        first.scalars(step, {"loss": float(step)})
    watching = EventAccumulator(str(tmp_path / "events"))
    watching.Reload()
    second = Board(tmp_path, 2)
    second.scalars(3, {"loss": 3.0})
    watching.Reload()
    assert [e.step for e in watching.Scalars("loss")] == [1, 2, 3]


def test_other_programs_files_stay_as_they_are(tmp_path):
    (tmp_path / "events").mkdir()
    other = tmp_path / "events" / "events.out.tfevents.1.host"
    other.write_bytes(b"not ours")
    Board(tmp_path, 0).close()
    assert other.read_bytes() == b"not ours"


def test_a_folder_that_cant_be_written_is_one_line(tmp_path):
    (tmp_path / "events").write_text("in the way")
    lines = []
    board = Board(tmp_path, warn=lines.append)
    for step in range(3):
        board.scalars(step, {"loss": 1.0})
        board.images(step, {"val": np.zeros((4, 4, 3), np.uint8)})
    board.close()
    assert len(lines) == 1 and str(tmp_path / "events") in lines[0]


def test_a_full_disk_is_one_line(tmp_path):
    lines = []
    board = Board(tmp_path, warn=lines.append)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, before[1]))
    try:
        for step in range(100):
            board.scalars(step, {"loss": 1.0})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    board.close()
    assert len(lines) == 1 and "going on" in lines[0]
    resumed = Board(tmp_path, 10)
    resumed.scalars(11, {"loss": 1.0})
    assert [step for step, _ in read_events(tmp_path)[0]["loss"]] == list(range(12))


class Perfect:
    """A predictor that knows the truth."""

    def __init__(self, dataset):
        self._masks = {s.image.tobytes(): s.mask for s in map(dataset.read, range(len(dataset.ids)))}

    def mask(self, image):
        return self._masks[image.tobytes()]


def test_pictures_are_the_same_samples_at_each_call():
    dataset = shapes.build("val", size=(600, 300), val=9)
    found = pictures(dataset, Perfect(dataset))
    assert list(found) == ["val-00000", "val-00003", "val-00005", "val-00008"]
    assert list(pictures(dataset, Perfect(dataset))) == list(found)
    picture = found["val-00000"]
    assert picture.shape == (512, 3 * 256, 3) and picture.dtype == np.uint8
    image, truth, predicted = np.hsplit(picture, 3)
    assert (truth == predicted).all() and (image != truth).any()


def test_importing_it_loads_no_framework():
    code = (
        "import sys, segtrain.training.board\n"
        "assert not {'torch', 'tensorflow', 'mxnet'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ)
