"""Images per second of one process with two threads, and of two ranks with one thread each by each
engine, on this machine; the share of time in communication; what 8 and 64 machines would give.

    python scripts/bench_ranks.py [--rounds 5] [--gbit 10] [--json FILE] [--add FILE ...]

All are real runs of the command line on made-up images, in turn in each round; medians over the rounds,
each of the last epoch. The time without communication is that of two processes that train
side by side on half the batch each and don't know of one another. --add: results of earlier calls whose
rounds count too.

On paper: each machine is one rank with this share of the batch. A step takes what it takes here
without communication, plus what an engine's work adds here over the loopback interface, plus the
time in which the gradients pass the network card of the stated bandwidth, none of it hidden behind
computing. A ring over N machines sends and receives 2 (N-1)/N of them on each card, and so do N
workers with a server beside each of them.
"""

import argparse
import csv
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import segtrain  # noqa: F401  (sets the threads before MXNet is loaded)  # isort: skip
import mxnet as mx
from rich.console import Console
from rich.table import Table

BATCH, STEPS = 8, 10
ONE, APART = "1 process, 2 threads", "2 processes that don't talk"
CONFIG = """
model: {{name: unet, widths: [16, 32, 64, 128], norm: none}}
data: {{name: shapes, size: [112, 112], train: {images}, val: 2, crop: [96, 96], workers: 0, cache: ram}}
train: {{epochs: 2, batch: {batch}, lr: 0.01, log_every: {steps}}}
eval: {{every: 2}}
"""


def config(home, ranks):
    path = home / f"of-{ranks}.yaml"
    images, batch = BATCH * STEPS // ranks, BATCH // ranks
    path.write_text(CONFIG.format(images=images, batch=batch, steps=STEPS))
    return path


def start(path, out, threads, *prefix):
    command = [sys.executable, "-m", "segtrain", *prefix, "train", str(path), "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    return subprocess.Popen([*command, "--devices", "cpu", "--quiet"], env=environment)


def rate(out):
    with open(out / "history.csv") as file:
        return float(list(csv.DictReader(file))[-1]["images_per_second"])


def measure(jobs):
    """The images per second of runs side by side, by what starts them."""
    with tempfile.TemporaryDirectory(prefix="segtrain-bench-") as home:
        outs = [Path(home) / str(number) for number in range(len(jobs))]
        running = [start(config(Path(home), part), out, *how) for (part, *how), out in zip(jobs, outs)]
        codes = [process.wait() for process in running]
        assert not any(codes), codes
        arrays = mx.nd.load(str(outs[0] / "checkpoints/last/model.params"))
        return sum(map(rate, outs)), 4 * sum(array.size for array in arrays.values())


def kinds():
    """What is compared: for each run of a kind its part of the batch, threads, and launcher."""
    found = {ONE: [(1, 2)], APART: [(2, 1), (2, 1)]}
    for engine in ("ps", "horovod"):
        if engine == "ps" or importlib.util.find_spec("horovod"):
            found[f"2 ranks by {engine}"] = [(1, 2, "launch", "-n", "2", "--engine", engine, "--")]
    return found


def paper(rates, size, gbit):
    """Rows of (engine, machines, milliseconds of a step, images/s, efficiency)."""
    share = BATCH // 2
    alone = BATCH / rates[APART]  # seconds of a step, of half the batch by each of two processes
    for name in [name for name in rates if name.startswith("2 ranks")]:
        added = max(0.0, BATCH / rates[name] - alone)
        for machines in (1, 8, 64):
            sent = 2 * (machines - 1) / machines * size * 8 / (gbit * 1e9)
            step = alone + (added + sent if machines > 1 else 0)
            yield name[len("2 ranks by ") :], machines, 1e3 * step, machines * share / step, alone / step


def show(rounds, rates, size, gbit):
    table = Table(
        box=None, header_style="bold", title=f"batch {BATCH}, {size / 1e6:.2f} MB of gradients"
    )
    for name in ("", "images/s", "of 1 process", "in communication"):
        table.add_column(name, justify="right")
    for name, value in rates.items():
        talk = f"{max(0.0, 1 - value / rates[APART]):.0%}" if name.startswith("2 ranks") else ""
        lowest, highest = min(rounds[name]), max(rounds[name])
        spread = f"{value:.1f} ({lowest:.1f} to {highest:.1f})"
        table.add_row(name, spread, f"{value / rates[ONE]:.2f}", talk)
    Console().print(table)
    table = Table(
        box=None, header_style="bold", title=f"on paper, {gbit:g} Gbit/s, {BATCH // 2} images each"
    )
    for name in ("engine", "machines", "ms a step", "images/s", "efficiency"):
        table.add_column(name, justify="right")
    for engine, machines, step, images, efficiency in paper(rates, size, gbit):
        table.add_row(engine, str(machines), f"{step:.0f}", f"{images:.0f}", f"{efficiency:.0%}")
    Console().print(table)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--gbit", type=float, default=10, help="of a machine's network card, per second")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--add", type=Path, nargs="+", default=[])
    options = parser.parse_args()
    rounds, size = {name: [] for name in kinds()}, 0
    for file in options.add:
        kept = json.loads(file.read_text())
        size = kept["bytes"]
        for name in rounds:
            rounds[name] += kept["rounds"][name]
    for _ in range(options.rounds):
        for name, jobs in kinds().items():
            value, size = measure(jobs)
            rounds[name].append(value)
    rates = {name: statistics.median(values) for name, values in rounds.items()}
    show(rounds, rates, size, options.gbit)
    if options.json:
        found = {"bytes": size, "batch": BATCH, "rounds": rounds, "median": rates, "gbit": options.gbit}
        columns = ("engine", "machines", "step_ms", "images_per_second", "efficiency")
        found["paper"] = [dict(zip(columns, row)) for row in paper(rates, size, options.gbit)]
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
