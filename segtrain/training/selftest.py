"""Proof on the user's own machine that a killed run, resumed, ends at the same bits."""

from __future__ import annotations

import csv
import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Callable, Dict, List

from segtrain.errors import SegtrainError

CONFIG = """\
model: {name: unet, widths: [8, 16], units: 1}
data: {name: shapes, size: [64, 64], train: 48, val: 12, crop: [48, 48], workers: 1}
train: {epochs: 4, batch: 4, lr: 0.01, optimizer: adam, loss: {ce: 1, dice: 1}, ema: 0.9}
checkpoint: {every_steps: 5}
"""
TIMED = ("seconds", "images_per_second")  # columns of history.csv that no two runs share


def resume(
    config: Path, home: Path, kills: int, seed: int, devices: str, say: Callable[[str], None]
) -> Dict[str, Any]:
    """Train `config` unbroken, then `kills` times with a kill -9 at a random moment and a resume.

    Runs go into the folder `home`. The moments are drawn evenly over the time from the run's first
    file to its end, and so fall into steps, saves and evaluations; a run that was over by then is
    begun anew and killed in half the time. SegtrainError where a process fails for another reason
    than the kill.
    """
    chance = random.Random(seed)
    say("training without a break")
    process = _begun(config, home / "whole", devices)
    begun = time.monotonic()
    _wait(process)
    whole = time.monotonic() - begun
    wanted = fingerprint(home / "whole")
    rows: List[Dict[str, Any]] = []
    for number in range(kills):
        folder, after = home / f"killed-{number + 1}", chance.uniform(0, whole)
        while not _killed(config, folder, devices, after):
            shutil.rmtree(folder)
            after /= 2
        where = _where(folder)
        _wait(_start(config, folder, devices, "--resume"))
        equal = fingerprint(folder) == wanted
        rows.append({"after_seconds": after, "where": where, "equal": equal})
        verdict = "the same bits" if equal else "OTHER BITS"
        say(f"kill {number + 1}/{kills}: {where}; resumed, and ended at {verdict}")
    same = sum(row["equal"] for row in rows)
    return {"kills": kills, "equal": same, "passed": same == kills, "trials": rows}


def fingerprint(run: Path) -> str:
    """The sha256 of all that a finished run has learned: parameters, optimizer, history."""
    digest = hashlib.sha256()
    for file in ("last/model.params", "last/optimizer.params", "best/model.params"):
        digest.update((run / "checkpoints" / file).read_bytes())
    with (run / "history.csv").open() as table:
        for row in csv.DictReader(table):
            digest.update(repr([(k, v) for k, v in row.items() if k not in TIMED]).encode())
    return digest.hexdigest()


def _killed(config: Path, folder: Path, devices: str, after: float) -> bool:
    """Begin a run and kill it so many seconds after its first file; False where it was over by then."""
    process = _begun(config, folder, devices)
    with suppress(subprocess.TimeoutExpired):
        process.wait(after)
    process.kill()  # nothing happens to one that has ended
    if process.wait() == -signal.SIGKILL:
        process.communicate()
        return True
    _wait(process)
    return False


def _where(folder: Path) -> str:
    """What had been saved when the run was killed."""
    for name in ("last", "last.previous"):
        state = folder / "checkpoints" / name / "state.json"
        if state.is_file():
            found = json.loads(state.read_text())
            return f"after the save of epoch {found['epoch'] + 1}, step {found['batch']}"
    return "before the first save"


def _start(config: Path, folder: Path, devices: str, *more: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "segtrain", "train", str(config), "--out", str(folder)]
    return subprocess.Popen(
        [*command, "--devices", devices, "--quiet", *more],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def _begun(config: Path, folder: Path, devices: str) -> subprocess.Popen:
    """A process that has written the first file of its run."""
    process = _start(config, folder, devices)
    while not (folder / "environment.json").exists() and process.poll() is None:
        time.sleep(0.01)
    return process


def _wait(process: subprocess.Popen) -> None:
    told = process.communicate()[1]
    if process.returncode:
        last = (told.strip().splitlines() or ["no message"])[-1]
        raise SegtrainError(f"a run of the test failed by itself: {last}")
