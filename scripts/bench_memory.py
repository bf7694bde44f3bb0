"""Memory of a training step: segtrain's with and without train.recompute, and its peers'.

Peak of the resident memory of a process that takes a few steps, data and libraries included. The
two of segtrain take turns, step by step, so that their times can be compared.

    segtrain            the step as it is by default
    segtrain-recompute  with train.recompute=true
    gluoncv, torch      as in bench_step.py (make bench-peers installs PyTorch)

    python scripts/bench_memory.py [--rounds 5] [--cases 3]
        [--torch .venv-peers/bin/python] [--json FILE]
"""

import json
import sys
from pathlib import Path

import bench_step
import turns

WIDTHS = (32, 64, 128, 256, 512)
CASES = ((WIDTHS, 4), (WIDTHS, 16), ((*WIDTHS, 1024), 4))
PEERS = ("gluoncv", "torch")
PAIR = ("segtrain", "segtrain-recompute")


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


def peer(name, widths, batch):
    """In a process of its own: a step for each turn."""
    bench_step.WIDTHS, bench_step.BATCH = widths, batch
    if name in PEERS:
        step = getattr(bench_step, name)()
    else:
        step = segtrain(recompute=name.endswith("recompute"))
    bench_step.peer(step, "torch" if name == "torch" else "mxnet")


def take(names, case, python, rounds):
    """Seconds of each of the steps, and the peak, of each name; the first step isn't counted."""
    copies = {n: {"MXNET_CPU_TEMP_COPY": "4"} if n in PEERS else {} for n in names}  # MXNet's default
    started = {
        n: turns.Peer(python, __file__, json.dumps([n, *case]), environment=copies[n]) for n in names
    }
    told = {n: [] for n in names}
    for _ in range(1 + rounds):
        for name, turn in started.items():
            told[name].append(turn())
    for one in started.values():
        one.close()
    return {n: ([s for s, *_ in steps[1:]], steps[-1][1]) for n, steps in told.items()}


def measured(case, options):
    """For one network and batch: the seconds of segtrain's two, the peak of each, and ratios."""
    found = take(PAIR, case, sys.executable, options.rounds)
    for name in PEERS:
        if name != "torch" or Path(options.torch).exists():
            python = options.torch if name == "torch" else sys.executable
            found.update(take([name], case, python, options.rounds))
    label = f"widths {case[0][0]} to {case[0][-1]}, batch {case[1]}"
    (plain, ours), (again, _) = (found[name] for name in PAIR)
    ratios = {f"{label}: memory of {n}": peak / ours for n, (_, peak) in found.items() if n != PAIR[0]}
    ratios[f"{label}: time of {PAIR[1]}"] = turns.ratio(again, plain)
    seconds = {f"{label}: {n}": found[n][0] for n in PAIR}
    return seconds, {f"{label}: {n}": peak for n, (_, peak) in found.items()}, ratios


def main():
    parser = turns.parser(__doc__)
    parser.add_argument("--cases", type=int, default=len(CASES), help="the first ones only")
    parser.add_argument("--torch", default=".venv-peers/bin/python", help="a Python that has PyTorch")
    options = parser.parse_args()
    seconds, peaks, ratios = {}, {}, {}
    for case in CASES[: options.cases]:
        for kept, found in zip((seconds, peaks, ratios), measured(case, options)):
            kept.update(found)
    more = {"settings": {"side": bench_step.SIDE}, "details": {"peak_bytes": peaks}}
    made = turns.result(__doc__, "memory", options.rounds, "s per step", seconds, ratios, **more)
    turns.finish(made, options.json)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        peer(*json.loads(sys.argv[2]))
    else:
        main()
