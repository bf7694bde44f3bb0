"""Fault injection: processes of a launched job are killed at random, and the job must end well.

That is: all of it within `LIMIT` seconds, with the host and rank of the one killed and its last line, no
process left, the last checkpoint whole, and the command printed that then finishes the run.
"""

from __future__ import annotations

import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple

import mxnet as mx

from segtrain.errors import SegtrainError
from segtrain.run import Run

LIMIT = 30.0  # seconds from the kill to the end of all
APART = 1e-5  # of parameters: how far sums in another order may lie
CONFIG = """\
model: {name: unet, widths: [8, 16], units: 1}
data: {name: shapes, size: [64, 64], train: 96, val: 12, crop: [48, 48], workers: 0}
train: {epochs: 6, batch: 4, lr: 0.01, loss: {ce: 1, dice: 1}, ema: 0.9}
checkpoint: {every_steps: 5}
"""
_MARK = "SEGTRAIN_FAULTS"


class Job(NamedTuple):
    """What is launched."""

    config: Path
    ranks: int
    engine: str
    devices: str


def kill(job: Job, home: Path, kills: int, seed: int, say: Callable[[str], None]) -> Dict[str, Any]:
    """Launch a job unbroken, then `kills` times with a kill -9 of a random process and a resume.

    Runs go into the folder `home`. The moments are drawn evenly over the time from the run's first
    file to its end. SegtrainError where a job fails for another reason than the kill.
    """
    chance = random.Random(seed)
    say(f"{job.ranks} ranks by {job.engine}, without a break")
    with _Launched(job, home / "whole") as launched:
        begun = time.monotonic()
        launched.finish()
    whole = time.monotonic() - begun
    trials: List[Dict[str, Any]] = []
    while len(trials) < kills:
        folder = home / f"killed-{len(trials) + 1}"
        trial = _trial(job, folder, chance, whole)
        if trial is None:
            whole *= 0.9  # it was over already
            shutil.rmtree(folder)
            continue
        trial["apart"] = _apart(home / "whole", folder)
        trial["problems"] += [f"ends {trial['apart']:.2g} apart"] * (trial["apart"] > APART)
        trials.append(trial)
        verdict = "; ".join(trial["problems"]) or f"resumed, and ended {trial['apart']:.2g} apart"
        say(
            f"kill {len(trials)}/{kills}: {trial['victim']}, {trial['where']}; "
            f"all over in {trial['seconds']:.1f} s; {verdict}"
        )
    passed = sum(not trial["problems"] for trial in trials)
    return {"kills": kills, "right": passed, "passed": passed == kills, "trials": trials}


def _trial(job: Job, folder: Path, chance: random.Random, whole: float) -> Any:
    """Kill one process and resume; None where the job was over before."""
    with _Launched(job, folder) as launched:
        time.sleep(chance.uniform(0, whole))
        members = launched.members()
        if not members:
            return launched.finish()
        victim = chance.choice(sorted(members))
        begun = time.monotonic()
        os.kill(members[victim], signal.SIGKILL)
        text = launched.process.communicate()[1]
        seconds = time.monotonic() - begun
        if launched.process.returncode == 0:
            return None
        problems = [] if seconds < LIMIT else [f"took {seconds:.0f} s"]
        problems += launched.problems(text, victim)
    where = _where(folder)
    try:
        _resume(text)
    except SegtrainError as error:
        problems.append(str(error))
    return {"victim": victim, "seconds": seconds, "where": where, "problems": problems}


class _Launched:
    """A job that has written the first file of its run; it lasts no longer than the context."""

    def __init__(self, job: Job, folder: Path):
        self._mark, self._folder = f"{_MARK}={uuid.uuid4()}", folder
        launch = ["launch", "-n", str(job.ranks), "--engine", job.engine, "--"]
        train = ["train", str(job.config), "--out", str(folder), "--devices", job.devices, "--quiet"]
        self.process = _start([*launch, *train], dict([self._mark.split("=")]))
        while not (folder / "environment.json").exists() and self.process.poll() is None:
            time.sleep(0.01)

    def __enter__(self) -> _Launched:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()  # its processes end with it
        self.process.wait()

    def finish(self) -> None:
        """Wait for its end."""
        _finish(self.process)

    def members(self) -> Dict[str, int]:
        """The processes that the launcher watches, by what its error calls them."""
        found = {}
        for pid in self.left():
            variables = dict(v.split("=", 1) for v in _read(pid, "environ") if "=" in v)
            if pid != self.process.pid and "segtrain.machines.member" in _read(pid, "cmdline"):
                role, rank = variables.get("DMLC_ROLE", "worker"), variables.get("SEGTRAIN_RANK")
                found[f"rank {rank}" if role == "worker" else f"the {role}"] = pid
        return found

    def left(self) -> List[int]:
        """All processes of the job, also those that its processes have started."""
        pids = [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]
        return [pid for pid in pids if self._mark in _read(pid, "environ")]

    def problems(self, text: str, victim: str) -> List[str]:
        """What is wrong about the end of the job, whose last words are `text`."""
        found = [] if self.process.returncode == 1 else [f"exit code {self.process.returncode}"]
        said = f"{victim} on localhost was killed by signal 9; its last line: "
        found += [] if said in text else [f"doesn't say: {said}"]
        found += [f"left {len(self.left())} processes"] if self.left() else []
        run = Run(self._folder)
        try:
            if run.has("last"):
                run.load("last", ("model", "optimizer"))
        except SegtrainError as error:
            found.append(str(error))
        return found


def _start(arguments: List[str], variables: Dict[str, str]) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "segtrain", *arguments],
        env={**os.environ, **variables},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def _finish(process: subprocess.Popen) -> None:
    told = process.communicate()[1]
    if process.returncode:
        last = (told.strip().splitlines() or ["no message"])[-1]
        raise SegtrainError(f"a job of the test failed by itself: {last}")


def _resume(text: str) -> None:
    """Run the command that the launcher has printed."""
    _, found, command = text.rpartition("To go on: segtrain ")
    if not found:
        raise SegtrainError("says no command to go on")
    _finish(_start([*shlex.split(command.splitlines()[0]), "--quiet"], {}))


def _read(pid: int, file: str) -> List[str]:
    """The strings of a file in /proc/PID; none where the process is gone, or over but for its parent."""
    try:
        return Path(f"/proc/{pid}/{file}").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def _where(folder: Path) -> str:
    """What had been saved last."""
    run = Run(folder)
    if not run.has("last"):
        return "before the first save"
    state = run.load("last", ())[1]
    return f"after the save of epoch {state['epoch'] + 1}, step {state['batch']}"


def _apart(one: Path, other: Path) -> float:
    """The largest difference of a parameter between two finished runs."""
    first, second = (mx.nd.load(str(run / "checkpoints/last/model.params")) for run in (one, other))
    return max(float((first[name] - second[name]).abs().max().asscalar()) for name in first)
