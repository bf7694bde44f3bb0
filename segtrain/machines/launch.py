"""Processes that train together, started here or over ssh, watched, and ended as one.

Each runs `segtrain.machines.member`, whose input is its lifeline and whose output says where it stands.
The first one that fails, falls silent or gets nowhere ends the whole job. `places` says which there are.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence

from segtrain.errors import LOST, SegtrainError, Stopped, UserError
from segtrain.machines import heartbeat
from segtrain.machines.places import HERE, Place, Plan, Settings, plan
from segtrain.prediction.threads import cores

JOINING = 25.0  # seconds in which all must have found each other, once all look
BUSY = 900.0  # seconds without a step in which a process may compute; one that waits gets less
STARTS = 3  # of a job whose server dies before the first step
LATE = 3.0  # seconds in which the end of a process is seen, after that of those that it left
IDLE = 0.2  # of a core: less is waiting, for Horovod looks around meanwhile
PASSED_ON = ("MXNET_", "SEGTRAIN_", "PS_")  # beginnings of variables that go over ssh too


class ServerDied(SegtrainError):
    """MXNet's server has died before the first step, as it sometimes does: `init 0 first`."""


def launch(command: Sequence[str], settings: Settings, said: str) -> None:
    """Run `segtrain COMMAND` in as many ranks, until all are done.

    said: the command line up to COMMAND, for the line that tells how to go on. SegtrainError names
    the host and rank of the first failure with its last line; Stopped after Ctrl-C or SIGTERM.
    """
    _check(command)
    with _signals() as asked:
        for attempt in range(STARTS):
            with plan(settings) as planned:
                job = Job(planned, command, settings, said)
                try:
                    job.watch(asked)
                    return
                except ServerDied as error:
                    if attempt + 1 == STARTS or asked:
                        raise
                    print(f"segtrain: {error}; starting again", file=sys.stderr, flush=True)
                    command = [*command, *(["--resume"] if job.has_begun() else [])]
                finally:
                    job.end()


def _check(command: Sequence[str]) -> None:
    if not command or command[0] != "train":
        raise UserError("launch runs train: segtrain launch -n 2 -- train CONFIG")
    if "--dry-run" in command:
        raise UserError("--dry-run is for one process: segtrain train ... --dry-run")


class Member:
    """A process of the job, as it is seen from here."""

    def __init__(self, place: Place, command: Sequence[str], settings: Settings):
        self.place = place
        self.state: Dict[str, Any] = {"stage": "starting", "progress": 0, "cpu": 0.0}
        self.lines: List[str] = []
        self.heard = self.moved = time.monotonic()
        self.moved_at = 0.0  # seconds of computing, when it last moved
        self.remote = place.host != HERE
        arguments = _over_ssh(place, command, settings) if self.remote else _member(command)
        self._ssh = settings.ssh
        self.process = subprocess.Popen(
            arguments,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **_threads(place), **place.environment},
            start_new_session=True,
        )
        self._readers = [
            threading.Thread(target=self._read, args=(stream, out), daemon=True)
            for stream, out in ((self.process.stdout, sys.stdout), (self.process.stderr, sys.stderr))
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, stream: Any, out: Any) -> None:
        """Take the heartbeats out of what it says; the first rank's other lines are passed on."""
        for raw in stream:
            line = raw.decode(errors="replace").rstrip("\n")
            state = heartbeat.parse(line) if out is sys.stdout else None
            if state is None:
                self.lines = [*self.lines[-19:], line] if line.strip() else self.lines
                if self.place.rank == 0:
                    print(line, file=out, flush=True)
                continue
            now = self.heard = time.monotonic()
            if state["progress"] != self.state["progress"] or state["stage"] != self.state["stage"]:
                self.moved, self.moved_at = now, state["cpu"]
            self.state = state

    def write(self, line: str) -> None:
        """Send a line to its lifeline."""
        with contextlib.suppress(OSError):
            self.process.stdin.write(f"{line}\n".encode())  # type: ignore[union-attr]
            self.process.stdin.flush()  # type: ignore[union-attr]

    def end(self) -> None:
        """Kill it and all that it has started; over ssh, have it killed there."""
        running = self.process.poll() is None
        with contextlib.suppress(OSError):
            self.process.stdin.close()  # type: ignore[union-attr]
        if self.remote and running and "pid" in self.state:
            command = [*shlex.split(self._ssh), self.place.host, f"kill -9 {self.state['pid']}"]
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                subprocess.run(command, capture_output=True, timeout=5, check=False)
        with contextlib.suppress(OSError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def has_lost_another(self) -> bool:
        """Whether it has ended because another one had."""
        return self.last_line().endswith(LOST)

    def last_line(self) -> str:
        """The last that it said, of errors first what a person can use."""
        for reader in self._readers:
            reader.join(1)
        told = [line for line in self.lines if line.startswith("segtrain: ")]
        return (told or self.lines or ["it said nothing"])[-1]


def _member(command: Sequence[str]) -> List[str]:
    return [sys.executable, "-m", "segtrain.machines.member", *command]


def _over_ssh(place: Place, command: Sequence[str], settings: Settings) -> List[str]:
    kept = {k: v for k, v in os.environ.items() if k.startswith(PASSED_ON)}
    variables = {**kept, **_threads(place), **place.environment}
    words = ["env", *(f"{key}={value}" for key, value in variables.items()), *_member(command)]
    line = f"cd {shlex.quote(os.getcwd())} && exec {shlex.join(words)}"
    return [*shlex.split(settings.ssh), place.host, line]


def _threads(place: Place) -> Dict[str, str]:
    """Of a host's cores each of its ranks gets its part; a server and the scheduler need one."""
    ranks = int(place.environment.get("SEGTRAIN_LOCAL_RANKS", cores()))
    if place.host != HERE:  # whose cores are unknown here
        return {} if ranks == 1 else {"OMP_NUM_THREADS": os.environ["OMP_NUM_THREADS"]}
    return {"OMP_NUM_THREADS": str(max(1, int(os.environ["OMP_NUM_THREADS"]) // ranks))}


class Job:
    """The running processes; `watch` returns when all workers are done, and `end` leaves none."""

    def __init__(self, planned: Plan, command: Sequence[str], settings: Settings, said: str):
        self._settings, self._said, self._command = settings, said, command
        self._meeting, self._dead_since = planned.meeting, time.monotonic()
        os.environ["SEGTRAIN_LAUNCH"] = said
        self.members = [Member(place, command, settings) for place in planned.places]
        self.workers = [m for m in self.members if m.place.role == "worker"]

    def watch(self, asked: List[int]) -> None:
        """Wait until all workers are done; `asked` holds the signals that came meanwhile."""
        told = False
        while any(worker.process.poll() is None for worker in self.workers):
            if asked and not told:
                told = True
                for worker in self.workers:
                    worker.write("stop")
            if len(asked) > 1:
                raise Stopped(f"stopped at once{self._resume()}")
            self._find_failure(told)
            time.sleep(0.1)
        self._find_failure(told)
        if any(worker.process.returncode == 130 for worker in self.workers):
            raise Stopped(self.workers[0].last_line().replace("segtrain: ", "", 1))

    def end(self) -> None:
        """Kill all that is left."""
        enders = [threading.Thread(target=member.end) for member in self.members]
        for ender in enders:
            ender.start()
        for ender in enders:
            ender.join()

    def _find_failure(self, stopping: bool) -> None:
        """SegtrainError where a process has died, is silent, can't join or gets nowhere."""
        self._find_dead(stopping)
        live = [member for member in self.members if member.process.poll() is None]
        now, silence = time.monotonic(), self._settings.silence
        for member in live:
            if now - member.heard > silence:
                self._fail(member, f"has said nothing for {silence:.0f} s")
        self._find_stranger(live, now)
        self._find_stuck(now)

    def _find_dead(self, stopping: bool) -> None:
        """The first that has ended by itself, and not because it had lost another one."""
        fine = (None, 0, 130) if stopping else (None, 0)
        dead = [m for m in self.members if m.process.poll() not in fine]
        self._dead_since = self._dead_since if dead else time.monotonic()
        causes = [member for member in dead if not member.has_lost_another()]
        if not causes and time.monotonic() - self._dead_since < LATE:
            return
        for member in sorted(causes or dead, key=lambda m: m.process.returncode > 0):
            code = member.process.returncode
            how = f"was killed by signal {-code}" if code < 0 else f"ended with {code}"
            self._fail(member, how, code if code == 2 else 1)

    def _find_stranger(self, live: List[Member], now: float) -> None:
        """A worker that hasn't found the others, though all have been looking for them for long."""
        if any(member.state["stage"] == "starting" for member in live):
            return
        begun = max((m.moved for m in live if m.state["stage"] == "joining"), default=now)
        lost = [worker for worker in self.workers if worker.state["stage"] == "joining"]
        if lost and now - begun > JOINING:
            self._fail(lost[0], f"can't reach {self._meeting} (a firewall?)")

    def _find_stuck(self, now: float) -> None:
        """The worker that is furthest behind, where none has moved for long and all just wait."""
        live = [worker for worker in self.workers if worker.process.poll() is None]
        stages = {worker.state["stage"] for worker in live}
        if stages not in ({"training"}, {"reporting"}) or any(w.state["progress"] == 0 for w in live):
            return
        still = now - max(worker.moved for worker in live)
        idle = all(w.state["cpu"] - w.moved_at < IDLE * (now - w.moved) for w in live)
        limit = self._settings.silence if idle else BUSY
        if still > limit:
            behind = min(live, key=lambda worker: worker.state["progress"])
            self._fail(behind, f"has made no step for {limit:.0f} s")

    def _fail(self, member: Member, how: str, code: int = 1) -> None:
        early = not any(worker.state["progress"] for worker in self.workers)
        died = member.place.role == "server" and member.process.poll() == -signal.SIGABRT
        error = (ServerDied if early and died else SegtrainError)(
            f"{member.place} {how}; its last line: {member.last_line()}{self._resume()}"
        )
        error.exit_code = code
        raise error

    def has_begun(self) -> bool:
        """Whether there is a run folder to go on with."""
        run = self._run()
        return run is not None and (Path(run) / "config.yaml").is_file()

    def _run(self) -> Optional[str]:
        return next((w.state["run"] for w in self.workers if w.state.get("run")), None)

    def _resume(self) -> str:
        """How to go on, where there is something to go on with."""
        run = self._run()
        if run is None or not self.has_begun():
            return ""
        words = list(self._command)
        devices = words[words.index("--devices") :][:2] if "--devices" in words else []
        command = ["train", f"{run}/config.yaml", "--out", run, *devices, "--resume"]
        return f". To go on: {self._said} {shlex.join(command)}"


@contextlib.contextmanager
def _signals() -> Iterator[List[int]]:
    """The SIGINTs and SIGTERMs that came, which don't end this process meanwhile."""
    came: List[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda n, _: came.append(n)) for number in numbers}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


__all__ = ["launch"]
