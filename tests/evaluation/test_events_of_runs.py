"""What TensorBoard reads of a run that was killed at any moment is what it reads of a whole one."""

import os
import random
import signal
import time

from conftest import read_events, run, start

SMALL = """
model: {name: unet, widths: [8, 16], units: 1}
data: {name: shapes, size: [40, 40], train: 40, val: 6, crop: [32, 32], workers: 0}
train: {epochs: 3, batch: 4, lr: 0.01, log_every: 3}
checkpoint: {every_steps: 4}
"""


def told(folder):
    """All but the speed, which isn't the same twice."""
    scalars, images = read_events(folder)
    scalars.pop("images/s")
    pictures = {t: [(i.step, i.encoded_image_string) for i in found] for t, found in images.items()}
    return scalars, pictures


def test_a_killed_run_tells_what_a_whole_one_does(tmp_path):
    config, rng = tmp_path / "small.yaml", random.Random(0)
    config.write_text(SMALL)
    assert run("train", config, "--out", tmp_path / "whole")[0] == 0
    killed, resume = tmp_path / "killed", []
    for _ in range(3):
        process = start("train", config, "--out", killed, *resume)
        while process.poll() is None and not (killed / "checkpoints" / "last").exists():
            time.sleep(0.05)
        time.sleep(3 * rng.random() if resume else 0.2)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        resume = ["--resume"]
    code, text = run("train", config, "--out", killed, "--resume")
    assert code == 0, text
    scalars, pictures = told(killed)
    assert (scalars, pictures) == told(tmp_path / "whole")
    assert [step for step, _ in scalars["loss"]] == list(range(1, 31))
    assert [step for step, _ in scalars["val/miou"]] == [10, 20, 30]
    assert len(pictures) == 4
