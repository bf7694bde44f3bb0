"""Seconds until `segtrain --help` is printed, and until `segtrain train` has taken its first step.

Both as a user has them: a process of its own, watched on a terminal; the first step is over when the
bar shows it with its loss. "first start" knows nothing of the dataset yet, and reads every file once;
the others find what it found out. `import mxnet` alone is the part that segtrain can't change. The
stages of a start are timed in one more process, in the order in which they end.

    python scripts/bench_startup.py [ROOT] [--config configs/camvid-unet.yaml] [--rounds 5] [--json FILE]
"""

import builtins
import fcntl
import json
import os
import pty
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path

import turns

CONFIG = Path(__file__).parents[1] / "configs/camvid-unet.yaml"
SEGTRAIN = [sys.executable, "-m", "segtrain"]


def until(command, sign, environment):
    """Seconds until the command writes `sign` to its terminal, or ends where that is None."""
    terminal, inside = pty.openpty()
    fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("4H", 24, 200, 0, 0))  # room for a bar
    begun, seen = time.perf_counter(), b""
    child = subprocess.Popen(
        command, stdin=inside, stdout=inside, stderr=inside, env=environment, preexec_fn=os.setpgrp
    )
    os.close(inside)
    while sign is None or sign not in seen:
        try:
            read = os.read(terminal, 65536)
        except OSError:  # the terminal closes when the last process on it has ended
            break
        seen += read
    seconds = time.perf_counter() - begun
    if sign is not None:
        os.killpg(child.pid, signal.SIGKILL)
    status = child.wait()
    os.close(terminal)
    if (sign is None and status) or (sign is not None and sign not in seen):
        raise SystemExit(f"{' '.join(command)} failed:\n{seen.decode(errors='replace')}")
    return seconds


class Starts:
    """The starts of one config's training, each into a run folder that goes at once."""

    def __init__(self, config, overrides, home):
        self._home, self._cache = Path(home) / "run", Path(home) / "cache"
        run = ["--out", str(self._home)]
        self._arguments = ["train", str(config), *overrides, "train.log_every=1", *run]
        self._environment = {**os.environ, "SEGTRAIN_CACHE": str(self._cache), "TERM": "xterm"}

    def help(self):
        until([*SEGTRAIN, "--help"], None, self._environment)

    def mxnet(self):
        until([sys.executable, "-c", "import mxnet"], None, self._environment)

    def first(self):
        shutil.rmtree(self._cache, ignore_errors=True)
        self.later()

    def later(self):
        try:
            until([*SEGTRAIN, *self._arguments], b"loss=", self._environment)
        finally:
            shutil.rmtree(self._home, ignore_errors=True)

    def stages(self):
        """Seconds of each stage of a later start."""
        command = [sys.executable, __file__, "--work", *self._arguments]
        more = {"BENCH_BEGUN": str(time.time())}
        made = subprocess.run(
            command, env={**self._environment, **more}, stdout=subprocess.PIPE, text=True, check=True
        )
        shutil.rmtree(self._home)
        return json.loads(made.stdout.splitlines()[-1])


# ---- in a process of its own: the stages


class Stages:
    """When each stage of `segtrain train` ended."""

    def __init__(self, begun):
        self._last, self.seconds = begun, {}

    def end(self, name):
        now = time.time()
        self.seconds[name] = self.seconds.get(name, 0) + now - self._last
        self._last = now

    def ends(self, module, function, name):
        """Let the stage `name` end with each call of a module's or a class's function."""
        real = getattr(module, function)

        def wrapped(*args, **options):
            found = real(*args, **options)
            self.end(name)
            return found

        setattr(module, function, wrapped)


def work(arguments):
    stages = Stages(float(os.environ["BENCH_BEGUN"]))
    from segtrain.cli import app

    stages.end("Python, the command line")
    real = builtins.__import__

    def noticed(name, *args, **options):
        begins = name == "mxnet" and name not in sys.modules
        if begins:
            stages.end("config, other imports")
        found = real(name, *args, **options)
        if begins:
            stages.end("import mxnet")
        if name == "segtrain.training.train":
            builtins.__import__ = real
            watch(stages)
        return found

    builtins.__import__ = noticed
    app(arguments)


def watch(stages):
    """Mark the ends of the stages in the modules that training runs through."""
    from segtrain.training import train
    from segtrain.training.learner import Learner
    from segtrain.training.session import Session

    stages.end("config, other imports")
    stages.ends(train, "open_split", "dataset listed")
    stages.ends(train, "scan", "dataset scanned")
    stages.ends(train, "_loader", "cache, loader's processes")
    stages.ends(train, "Learner", "network, loss, optimizer")
    batches, losses = Session._batches, Learner.losses

    def waited(session):
        stages.end("run folder, TensorBoard")
        for batch in batches(session):
            stages.end("the first batch")
            yield batch

    def read(learner):
        found = losses(learner)
        if found:
            stages.end("the first step")
            print(json.dumps(stages.seconds), flush=True)
            os._exit(0)
        return found

    Session._batches, Learner.losses = waited, read


def main():
    if sys.argv[1:2] == ["--work"]:
        work(sys.argv[2:])
        return
    parser = turns.parser(__doc__)
    parser.add_argument("root", nargs="?", help="of the dataset, where the config's isn't it")
    parser.add_argument("--config", type=Path, default=CONFIG)
    options = parser.parse_args()
    overrides = [f"data.root={options.root}"] if options.root else []
    with tempfile.TemporaryDirectory() as home:
        starts = Starts(options.config, overrides, home)
        cases = {
            "--help": starts.help,
            "import mxnet": starts.mxnet,
            "first start to the first step": starts.first,
            "later start to the first step": starts.later,
        }
        found = turns.take(cases, options.rounds)
        stages = [starts.stages() for _ in range(3)]
    later = found["later start to the first step"]
    made = turns.result(
        __doc__,
        "startup",
        options.rounds,
        "s",
        found,
        {"import mxnet over a later start": turns.ratio(found["import mxnet"], later)},
        bars={"at most": {"--help": 0.3, **{name: 6 for name in cases if "step" in name}}},
        details={"stages": turns.medians({k: [s[k] for s in stages] for k in stages[0]})},
    )
    turns.finish(made, options.json)
    for name, seconds in made["details"]["stages"].items():
        print(f"    {name:<30}{seconds:8.3f} s")


if __name__ == "__main__":
    main()
