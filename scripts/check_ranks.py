"""One process against ranks of the parameter server: the parameters after 20 steps agree to 1e-5.

    python scripts/check_ranks.py [--ranks 2 4] [--folder DIR]

The network has no batch norm, which takes its statistics from a rank's own samples.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import segtrain  # noqa: F401  (sets the threads before MXNet is loaded)  # isort: skip
import mxnet as mx

CONFIG = """
model: {name: unet, widths: [8, 16, 32], norm: none}
data: {name: shapes, size: [80, 80], train: 38, val: 5, crop: [64, 64], workers: 1}
train: {epochs: 4, batch: 8, lr: 0.01, loss: {ce: 1, dice: 1}}
eval: {every: 4}
"""


def parameters(config, out, *prefix):
    command = [sys.executable, "-m", "segtrain", *prefix, "train", str(config), "--out", str(out)]
    subprocess.run(command, check=True)
    return mx.nd.load(str(out / "checkpoints/last/model.params"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--folder", type=Path, default=None)
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "ranks.yaml"
    config.write_text(CONFIG)
    one = parameters(config, folder / "one")
    worst = 0.0
    for count in options.ranks:
        several = parameters(config, folder / f"{count}", "launch", "-n", str(count), "--")
        apart = max(float((one[name] - several[name]).abs().max().asscalar()) for name in one)
        print(f"{count} ranks: largest difference of a parameter {apart:.2g}")
        worst = max(worst, apart)
    sys.exit(worst > 1e-5)


if __name__ == "__main__":
    main()
