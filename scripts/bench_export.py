"""A network's exported formats against itself, un-exported, and PyTorch: images per second.

U-Net 32-64-128-256-512 of four classes at 256x256 on the CPU, trained for moments on synthetic
shapes so that its formats can be proved, then exported as mxnet, onnx and int8. All run in turn in
one process; the speedup is over the hybridized Gluon network in float32. PyTorch's eager float32
network of the same architecture runs too where torch is installed.

    python scripts/bench_export.py [--rounds 10] [--json FILE]
"""

import argparse
import json
import tempfile
from pathlib import Path

import segtrain  # sets the threads before MXNet is loaded  # isort: skip
import mxnet as mx
import numpy as np

from segtrain import config
from segtrain.export import speed
from segtrain.export.export import export
from segtrain.trained import open_trained
from segtrain.training.train import train

WIDTHS, CLASSES = [32, 64, 128, 256, 512], 4
CONFIG = {
    "model": {"name": "unet", "widths": WIDTHS},
    "data": {"name": "shapes", "size": [64, 64], "train": 32, "val": 8, "crop": [64, 64], "workers": 0},
    "train": {"epochs": 3, "batch": 8, "lr": 0.003, "optimizer": "adam"},
}


def in_torch():
    """The same network in PyTorch, as a function of MXNet's arrays; None without torch."""
    try:
        import torch
        from torch import nn
    except ImportError:
        return None

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

    def run(x):
        with torch.no_grad():
            return mx.nd.array(net(torch.from_numpy(x.asnumpy())).numpy())

    return run


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        run, bundle = Path(home) / "run", Path(home) / "bundle"
        train(config.parse(CONFIG), run)
        export(run, bundle, ["onnx", "int8"])
        beside = {"gluon": open_trained(run, "cpu").net, "torch": in_torch()}
        beside = {name: network for name, network in beside.items() if network}
        result = speed.bundle(bundle, "cpu", (256, 256), (1, 4), options.rounds, beside)
        about = json.loads((bundle / "model.json").read_text())
        proof = json.loads((bundle / "parity.json").read_text())["formats"]
    rows = [
        {key: row[key] for key in ("format", "runtime", "batch", "images_per_second", "speedup")}
        for row in result["rows"]
    ]
    best = {
        f"batch {batch}": float(np.max([row["speedup"] for row in rows if row["batch"] == batch]))
        for batch in (1, 4)
    }
    absent = {} if "torch" in beside else {"torch": "it isn't installed"}
    found = {
        "segtrain": segtrain.__version__,
        "mxnet": mx.__version__,
        "rows": rows,
        "best_speedup": best,
        "miou": {name: one["miou"] for name, one in proof.items()},
        "bytes": {name: entry["bytes"] for name, entry in about["formats"].items()},
        "left_out": {**result["left_out"], **absent},
    }
    print(json.dumps(found, indent=1))
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
