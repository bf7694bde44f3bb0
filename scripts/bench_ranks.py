"""Images per second of one process with two threads, and of two ranks with one thread each by each
engine, on this machine; the share of time in communication; what 8 and 64 machines would give.

    python scripts/bench_ranks.py [--rounds 6] [--gbit 10] [--json FILE]

The ranks take steps together, and in turn steps that each keeps to itself, side by side: the
difference is communication. Medians over the rounds; a share below zero is noise.

On paper: each machine is one rank with this share of the batch. A step takes what it takes here
without communication, plus what an engine's work adds here over the loopback interface, plus the time
in which the gradients pass the network card of the stated bandwidth, none of it hidden behind
computing. A ring over N machines sends and receives 2 (N-1)/N of them on each card, and so do N
workers with a server beside each of them.
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time

import segtrain  # noqa: F401  (sets the threads before MXNet is loaded)  # isort: skip
import mxnet as mx
import numpy as np
from rich.console import Console
from rich.table import Table
from turns import finish, parser, ratio, result

from segtrain.config import parse
from segtrain.data.loader import Batch
from segtrain.machines import ranks
from segtrain.machines.places import Settings, plan
from segtrain.training.learner import Learner

BATCH, SIDE, STEPS, CLASSES = 8, 96, 5, 8
MODEL = {"name": "unet", "widths": [16, 32, 64, 128], "norm": "none"}
ONE = "1 process, 2 threads"


class Truth:
    classes, ignore = [str(i) for i in range(CLASSES)], 255


def stepper(among):
    """A function that takes steps on this rank's part of a batch, and its seconds for each; bytes."""
    config = parse({"model": MODEL, "data": {"crop": [SIDE, SIDE]}, "train": {"lr": 1e-4}})
    learner = Learner(config, Truth(), np.ones(CLASSES), [mx.cpu()], 1000, among)
    chance, count = np.random.default_rng(0), BATCH // int(os.environ.get("SEGTRAIN_LOCAL_RANKS", 1))
    images = chance.integers(0, 256, (count, 3, SIDE, SIDE)).astype(np.uint8)
    masks = chance.integers(0, CLASSES, (count, SIDE, SIDE)).astype(np.uint8)
    batch = Batch(images, masks, list(range(count)))

    def go():
        begun = time.perf_counter()
        for number in range(STEPS):
            learner.step(batch, number)
        mx.nd.waitall()
        return (time.perf_counter() - begun) / STEPS

    return go, 4 * sum(p.data().size for p in learner.net.collect_params().values())


def work(rounds):
    """A rank's part: print, as the first one, the seconds of its steps with and without the others."""
    all_ranks = ranks.join()
    together, size = stepper(all_ranks)
    alone, _ = stepper(ranks.ALONE)
    found = {"together": [], "alone": [], "bytes": size}
    for number in range(rounds + 1):
        for kind, go in (("together", together), ("alone", alone)):
            all_ranks.gather(b"")  # begin at once
            found[kind] += [go()] if number else [go()][1:]  # the first round warms up
    all_ranks.gather(b"")
    all_ranks.leave()
    if all_ranks.first:
        print(json.dumps(found), flush=True)
    os._exit(0)


def start(variables, threads, rounds):
    role = variables.get("DMLC_ROLE", "worker")
    here = [sys.executable, __file__, "--work", "--rounds", str(rounds)]
    command = here if role == "worker" else [sys.executable, "-c", "import segtrain, mxnet"]
    environment = {**os.environ, **variables, "OMP_NUM_THREADS": str(threads)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def measure(engine, rounds):
    if engine is None:
        return json.loads(start({}, 2, rounds).communicate()[0])
    with plan(Settings(2, engine=engine)) as planned:
        running = [start(place.environment, 1, rounds) for place in planned.places]
        first = next(p for p, place in zip(running, planned.places) if place.rank == 0)
        told = first.communicate()[0]
        for process in running:
            process.kill()
            process.wait()
    return json.loads(told)


def paper(found, gbit):
    """Rows of engine, machines, milliseconds of a step, images/s and efficiency."""
    for engine in [name for name in found if name != ONE]:
        alone, together = (statistics.median(found[engine][kind]) for kind in ("alone", "together"))
        for machines in (1, 8, 64):
            sent = 2 * (machines - 1) / machines * found[engine]["bytes"] * 8 / (gbit * 1e9)
            step = alone + (max(0.0, together - alone) + sent if machines > 1 else 0.0)
            yield engine, machines, 1e3 * step, machines * BATCH / 2 / step, alone / step


def show(found, gbit):
    size = found[ONE]["bytes"] / 1e6
    table = Table(box=None, title=f"batch {BATCH} of {SIDE} x {SIDE}, {size:.2f} MB of gradients")
    for name in ("", "ms a step", "images/s", "of one process", "in communication"):
        table.add_column(name, justify="right", no_wrap=True)
    one = statistics.median(found[ONE]["together"])
    for name, seconds in found.items():
        step, alone = (statistics.median(seconds[kind]) for kind in ("together", "alone"))
        share = "" if name == ONE else f"{1 - alone / step:.1%}"
        table.add_row(name, f"{1e3 * step:.0f}", f"{BATCH / step:.1f}", f"{one / step:.2f}", share)
    Console(width=100).print(table)
    table = Table(box=None, title=f"on paper, {gbit:g} Gbit/s, {BATCH // 2} images each")
    for name in ("", "machines", "ms a step", "images/s", "efficiency"):
        table.add_column(name, justify="right", no_wrap=True)
    for engine, machines, step, images, efficiency in paper(found, gbit):
        table.add_row(engine, str(machines), f"{step:.1f}", f"{images:.0f}", f"{efficiency:.1%}")
    Console(width=100).print(table)


def main():
    options = parser(__doc__, rounds=6)
    options.add_argument(
        "--gbit", type=float, default=10, help="of a machine's network card, per second"
    )
    options.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    options = options.parse_args()
    if options.work:
        work(options.rounds)
    engines = {ONE: None, "2 ranks by ps": "ps"}
    if importlib.util.find_spec("horovod"):
        engines["2 ranks by horovod"] = "horovod"
    found = {}
    for _ in range(2):  # in turn, so that a change of the machine's load meets all of them
        for name, engine in engines.items():
            told = measure(engine, (options.rounds + 1) // 2)
            before = found.setdefault(name, {"together": [], "alone": []})
            for kind in ("together", "alone"):
                before[kind] += told[kind]
            before["bytes"] = told["bytes"]
    show(found, options.gbit)
    images = {name: [BATCH / step for step in told["together"]] for name, told in found.items()}
    ratios = {f"{name} to {ONE}": ratio(images[name], images[ONE]) for name in found if name != ONE}
    columns = ("engine", "machines", "step_ms", "images_per_second", "efficiency")
    rows = [dict(zip(columns, row)) for row in paper(found, options.gbit)]
    settings = {"batch": BATCH, "side": SIDE, "model": MODEL, "gbit": options.gbit}
    details = {"seconds": found, "paper": rows}
    made = result(
        *(__doc__, "ranks", len(images[ONE]), "images/s", images, ratios),
        **{"settings": settings, "bars": {}, "details": details},
    )
    finish(made, options.json, told=True)


if __name__ == "__main__":
    main()
