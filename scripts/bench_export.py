"""A network's exported formats against itself, un-exported, and PyTorch: images per second.

U-Net 32-64-128-256-512 of four classes at 256x256 on the CPU, trained for moments on synthetic
shapes so that its formats can be proved, then exported as mxnet, onnx and int8. All run in turn; the
speedup is over the hybridized Gluon network in float32. PyTorch's eager float32 network of the same
architecture runs too, with as many threads, in a process of its own: its pixels and scores go through
a pipe, which is timed with it (a few milliseconds).

    python scripts/bench_export.py [--rounds 10] [--torch .venv-peers/bin/python] [--json FILE]
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import turns

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
    environment = {**os.environ, "PYTHONPATH": str(turns.ROOT)}  # turns.py needs segtrain
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)

    def run(x):
        n, _, height, width = x.shape
        process.stdin.write(json.dumps(x.shape).encode() + b"\n" + x.asnumpy().tobytes())
        process.stdin.flush()
        scores = np.frombuffer(process.stdout.read(n * CLASSES * height * width * 4), np.float32)
        return mx.nd.array(scores.reshape(n, CLASSES, height, width))

    return run


def main():
    parser = turns.parser(__doc__, rounds=10)
    parser.add_argument("--torch", default=".venv-peers/bin/python", help="a Python that has PyTorch")
    options = parser.parse_args()
    turns.finish(measured(options.rounds, options.torch), options.json)


def measured(rounds, python):
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
    speeds, gains = {}, {}
    for row in result["rows"]:
        inside = f" in {row['runtime']}" if row["format"] in proof else ""
        name = f"{row['format']}{inside}, batch {row['batch']}"
        speeds[name], gains[name] = [row["images_per_second"]], row["speedup"]
        if row["format"] in proof:
            best = f"the best, batch {row['batch']}"
            gains[best] = max(gains.get(best, 0), row["speedup"])
    details = {name: {key: one[key] for key in ("miou", "bytes")} for name, one in proof.items()}
    return turns.result(
        __doc__,
        "export",
        rounds,
        "images/s",
        speeds,
        gains,
        settings={"side": 256},
        bars={"at least": {"the best, batch 1": 3, "the best, batch 4": 2}},
        details={"formats": details, "left out": result["left_out"]},
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        work()
    else:
        main()
