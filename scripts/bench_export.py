"""A network's exported formats against itself, un-exported, and PyTorch: images per second.

U-Net 32-64-128-256-512 of four classes at 256x256 on the CPU, trained for moments on synthetic
shapes so that its formats can be proved, then exported as mxnet, onnx and int8. All run in turn; the
speedup is over the hybridized Gluon network in float32. PyTorch's eager float32 network of the same
architecture runs too, with as many threads, in a process of its own: its pixels and scores go through
a pipe, which is timed with it (a few milliseconds).

    python scripts/bench_export.py [--rounds 10] [--torch .venv-peers/bin/python] [--json FILE]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

WIDTHS, CLASSES = [32, 64, 128, 256, 512], 4
CONFIG = {
    "model": {"name": "unet", "widths": WIDTHS},
    "data": {"name": "shapes", "size": [64, 64], "train": 32, "val": 8, "crop": [64, 64], "workers": 0},
    "train": {"epochs": 3, "batch": 8, "lr": 0.003, "optimizer": "adam"},
}


# ---- PyTorch, in a process of its own


def work():
    """Answer each line on stdin, the length of a batch, and its pixels (uint8) by scores (float32)."""
    import numpy as np
    import torch
    from torch import nn

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

    def convs(before, width):
        units = [(before, width), (width, width)]
        layers = [
            [nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU()] for a, b in units
        ]
        return nn.Sequential(*[layer for unit in layers for layer in unit])

    class UNet(nn.Module):
        def __init__(self):
            super().__init__()
            pairs = list(zip([3, *WIDTHS], WIDTHS))
            self.down = nn.ModuleList([convs(*pair) for pair in pairs])
            fine = list(zip(WIDTHS, WIDTHS[1:]))[::-1]
            self.up = nn.ModuleList([nn.ConvTranspose2d(b, a, 2, 2) for a, b in fine])
            self.merged = nn.ModuleList([convs(2 * a, a) for a, _ in fine])
            self.head = nn.Conv2d(WIDTHS[0], CLASSES, 1)

        def forward(self, x):
            x, skips = (x.float() - 127.5) / 64, []
            for number, block in enumerate(self.down):
                x = block(nn.functional.max_pool2d(x, 2) if number else x)
                skips.append(x)
            for up, block, skip in zip(self.up, self.merged, skips[-2::-1]):
                x = block(torch.cat([up(x), skip], 1))
            return self.head(x)

    net = UNet().eval()
    given, made = sys.stdin.buffer, sys.stdout.buffer
    with torch.no_grad():
        for line in given:
            shape = json.loads(line)
            pixels = np.frombuffer(bytearray(given.read(int(np.prod(shape)))), np.uint8)
            made.write(net(torch.from_numpy(pixels.reshape(shape))).numpy().tobytes())
            made.flush()


def in_torch(python):
    """That network as a function of MXNet's arrays."""
    import mxnet as mx
    import numpy as np

    command = [python, __file__, "--work"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def run(x):
        n, _, height, width = x.shape
        process.stdin.write(json.dumps(x.shape).encode() + b"\n" + x.asnumpy().tobytes())
        process.stdin.flush()
        scores = np.frombuffer(process.stdout.read(n * CLASSES * height * width * 4), np.float32)
        return mx.nd.array(scores.reshape(n, CLASSES, height, width))

    return run


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--torch", default=".venv-peers/bin/python", help="a Python that has PyTorch")
    parser.add_argument("--json")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work()
        return
    found = measured(options.rounds, options.torch)
    print(json.dumps(found, indent=1))
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=1))


def measured(rounds, python):
    import segtrain  # sets the threads before MXNet is loaded  # isort: skip
    import mxnet as mx

    from segtrain import config
    from segtrain.export import speed
    from segtrain.export.export import export
    from segtrain.trained import open_trained
    from segtrain.training.train import train

    with tempfile.TemporaryDirectory() as home:
        run, bundle = Path(home) / "run", Path(home) / "bundle"
        train(config.parse(CONFIG), run)
        proof = export(run, bundle, ["onnx", "int8"])["formats"]
        beside = {"gluon": open_trained(run, "cpu").net}
        if Path(python).exists():
            beside["torch"] = in_torch(python)
        result = speed.bundle(bundle, "cpu", (256, 256), (1, 4), rounds, beside)
    keys = ("format", "runtime", "batch", "images_per_second", "speedup")
    rows = [{key: row[key] for key in keys} for row in result["rows"]]
    ours = [row for row in rows if row["format"] in proof]
    absent = {} if "torch" in beside else {"torch": f"there is no {python}: make bench-peers"}
    return {
        "segtrain": segtrain.__version__,
        "mxnet": mx.__version__,
        "threads": os.environ["OMP_NUM_THREADS"],
        "rows": rows,
        "best_speedup": {
            f"batch {batch}": max(row["speedup"] for row in ours if row["batch"] == batch)
            for batch in (1, 4)
        },
        "miou": {name: one["miou"] for name, one in proof.items()},
        "bytes": {name: one["bytes"] for name, one in proof.items()},
        "left_out": {**result["left_out"], **absent},
    }


if __name__ == "__main__":
    main()
