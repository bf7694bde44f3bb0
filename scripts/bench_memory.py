"""Memory of a training step: segtrain's with and without train.recompute, and its peers'.

Peak of the resident memory of a process that takes a few steps, data and libraries included. The
two of segtrain take turns, step by step, so that their times can be compared.

    segtrain            the step as it is by default
    segtrain-recompute  with train.recompute=true
    gluoncv, torch      as in bench_step.py (make bench-peers installs PyTorch)

    python scripts/bench_memory.py [--rounds 5] [--cases 3]
        [--torch .venv-peers/bin/python] [--json FILE]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import bench_step

WIDTHS = (32, 64, 128, 256, 512)
CASES = ((WIDTHS, 4), (WIDTHS, 16), ((*WIDTHS, 1024), 4))
PEERS = ("gluoncv", "torch")


def segtrain(recompute=False):
    import mxnet as mx
    import numpy as np

    from segtrain.config import parse
    from segtrain.data.loader import Batch
    from segtrain.training.learner import Learner

    class Truth:
        classes, ignore = [str(i) for i in range(bench_step.CLASSES)], 255

    model = {"name": "unet", "widths": bench_step.WIDTHS}
    config = parse({"model": model, "train": {"lr": 0.01, "recompute": recompute}})
    learner = Learner(config, Truth, np.ones(bench_step.CLASSES), [mx.cpu()], 1000)
    images, masks = bench_step.batch()
    made = Batch(images, masks, list(range(len(images))))

    def step(number):
        learner.step(made, number)
        mx.nd.waitall()

    return step


def work(name, widths, batch):
    """In a process of its own: a step for each line on stdin; seconds and peak bytes on stdout."""
    bench_step.WIDTHS, bench_step.BATCH = widths, batch
    if name in PEERS:
        step = getattr(bench_step, name)()
    else:
        step = segtrain(recompute=name.endswith("recompute"))
    for number, _ in enumerate(sys.stdin):
        begun = time.perf_counter()
        step(number)
        seconds = time.perf_counter() - begun
        status = Path("/proc/self/status").read_text()
        peak = int(status.partition("VmHWM:")[2].split()[0]) * 1024
        print(json.dumps([seconds, peak]), flush=True)


def turns(names, case, python, rounds):
    """Seconds of each of the steps, and the peak, of each name; the first step isn't counted."""
    from segtrain.machines.threads import cores

    environment = {**os.environ, "OMP_NUM_THREADS": str(cores())}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    started = {
        name: subprocess.Popen(
            [python, __file__, "--work", json.dumps([name, *case])], **pipes, text=True, env=environment
        )
        for name in names
    }
    told = {name: [] for name in names}
    for _ in range(1 + rounds):
        for name, process in started.items():
            process.stdin.write("\n")
            process.stdin.flush()
            line = process.stdout.readline()
            if not line:
                raise SystemExit(f"the process of {name} died; is there enough memory?")
            told[name].append(json.loads(line))
    for process in started.values():
        process.stdin.close()
        process.wait()
    return {n: {"seconds": [s for s, _ in t[1:]], "peak": t[-1][1]} for n, t in told.items()}


def measured(case, options):
    """What the processes need for one network and batch."""
    pair = ("segtrain", "segtrain-recompute")
    found = turns(pair, case, sys.executable, options.rounds)
    for name in PEERS:
        if name != "torch" or Path(options.torch).exists():
            python = options.torch if name == "torch" else sys.executable
            found.update(turns([name], case, python, 2))
    ours = found["segtrain"]
    slower = [b / a for a, b in zip(*(found[name]["seconds"] for name in pair))]
    return {
        "widths": case[0],
        "batch": case[1],
        "side": bench_step.SIDE,
        "peak_mib": {n: round(f["peak"] / 2**20) for n, f in found.items()},
        "memory_over_segtrain": {n: round(f["peak"] / ours["peak"], 3) for n, f in found.items()},
        "seconds_per_step": {n: round(statistics.median(found[n]["seconds"]), 3) for n in pair},
        "recompute_time_over_segtrain": round(statistics.median(slower), 3),
        "rounds": options.rounds,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cases", type=int, default=len(CASES), help="the first ones only")
    parser.add_argument("--torch", default=".venv-peers/bin/python", help="a Python that has PyTorch")
    parser.add_argument("--json")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(*json.loads(options.work))
        return
    result = [measured(case, options) for case in CASES[: options.cases]]
    print(json.dumps(result, indent=1))
    if options.json:
        Path(options.json).write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
