"""The training loop's images per second over the bare step's, with augmentation and logging on.

Of configs/camvid-unet.yaml, and of the same network with half of its widths, whose step takes about a
third of the time. The loop is an epoch's first steps as `segtrain train` takes them: batches from the
loader, losses read, progress, TensorBoard. The bare step runs on batches that are there already.

    python scripts/bench_loop.py [ROOT] [--cases camvid-unet,...] [--rounds 5] [--steps 16] [--json FILE]
"""

from pathlib import Path

import segtrain  # noqa: F401  sets the threads before MXNet is loaded  # isort: skip
import mxnet as mx
import turns

from segtrain.config import load
from segtrain.graph import graph
from segtrain.training import timing
from segtrain.training.train import prepare

CONFIG = Path(__file__).parents[1] / "configs/camvid-unet.yaml"
SMALL = "model.widths=[8, 16, 32, 64, 128]"
FILES = ["data.cache=none"]
CASES = {
    "camvid-unet": [],
    "camvid-unet, from PNG files": FILES,
    "half the widths": [SMALL],
    "half the widths, no process for data": [SMALL, "data.workers=0"],
    "half the widths, from PNG files": [SMALL, *FILES],
}


def measured(config, rounds, steps):
    """Images per second of step and loop, in turns, and the FLOPs of an image."""
    with prepare(config, [mx.cpu()]) as made:
        batches, size = timing.keep(made, steps), int(made.config.train.batch)
        timing.warm_up(made, batches[0])
        for index in range(len(made.loader.dataset.ids)):  # the first epoch does this on the way
            made.loader.dataset.read(index)
        epochs = iter(range(10**6))

        def step():
            timing.step(made, batches, steps)
            return steps * size

        def loop():
            timing.loop(made, next(epochs), steps)
            return steps * size

        found = turns.take({"step": step, "loop": loop}, rounds)
        return found, graph.describe(config)["flops"], made.workers


def main():
    parser = turns.parser(__doc__)
    parser.add_argument("root", nargs="?", help="of CamVid, where the config's isn't it")
    parser.add_argument("--cases", help="some of: " + "; ".join(CASES))
    parser.add_argument("--steps", type=int, default=16, help="in a row")
    options = parser.parse_args()
    names = options.cases.split(";") if options.cases else list(CASES)
    found, ratios, details = {}, {}, {}
    for name in names:
        root = [f"data.root={options.root}"] if options.root else []
        values, flops, workers = measured(
            load(CONFIG, [*CASES[name], *root]), options.rounds, options.steps
        )
        found.update({f"{name}, {part}": speeds for part, speeds in values.items()})
        ratios[name] = turns.ratio(values["loop"], values["step"])
        details[name] = {"flops_per_image": flops, "workers": workers, "overrides": CASES[name]}
    made = turns.result(
        __doc__,
        "loop",
        options.rounds,
        "images/s",
        found,
        ratios,
        bars={"at least": {n: 0.97 for n in names if "PNG" not in n and "no process" not in n}},
        settings={"steps": options.steps},
        details=details,
    )
    turns.finish(made, options.json)


if __name__ == "__main__":
    main()
