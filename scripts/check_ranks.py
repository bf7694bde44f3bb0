"""One process against several ranks by each engine: after 20 steps the parameters agree to 1e-5.

    python scripts/check_ranks.py [--ranks ps:2 horovod:2 ps:4] [--folder DIR] [--json FILE]

The network has no batch norm, which takes its statistics from a rank's own samples; the last batch
of each epoch doesn't divide among the ranks. What isn't installed is left out, and said.
"""

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import segtrain  # noqa: F401  (sets the threads before MXNet is loaded)  # isort: skip
import mxnet as mx

STEPS, LIMIT = 20, 1e-5
CONFIG = """
model: {name: unet, widths: [8, 16, 32], norm: none}
data: {name: shapes, size: [80, 80], train: 38, val: 5, crop: [64, 64], workers: 1}
train: {epochs: 4, batch: 8, lr: 0.01, loss: {ce: 1, dice: 1}}
eval: {every: 4}
"""


def parameters(config, out, *prefix):
    command = [sys.executable, "-m", "segtrain", *prefix, "train", str(config), "--out", str(out)]
    subprocess.run([*command, "--quiet"], check=True)
    steps = json.loads((out / "checkpoints/last/state.json").read_text())["history"][-1]["step"]
    assert steps == STEPS, f"{out}: {steps} steps"
    return mx.nd.load(str(out / "checkpoints/last/model.params"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", nargs="+", default=["ps:2", "horovod:2", "ps:4"])
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "ranks.yaml"
    config.write_text(CONFIG)
    one = parameters(config, folder / "one")
    apart = {}
    for job in options.ranks:
        engine, count = job.split(":")
        if engine == "horovod" and importlib.util.find_spec("horovod") is None:
            print(f"{job}: left out, Horovod isn't installed")
            continue
        launch = ("launch", "-n", count, "--engine", engine, "--")
        several = parameters(config, folder / f"{engine}-{count}", *launch)
        apart[job] = max(float((one[name] - several[name]).abs().max().asscalar()) for name in one)
        print(f"{job}: largest difference of a parameter from one process {apart[job]:.2g}", flush=True)
    if options.json:
        options.json.write_text(json.dumps({"steps": STEPS, "limit": LIMIT, "apart": apart}, indent=1))
    sys.exit(max(apart.values()) > LIMIT)


if __name__ == "__main__":
    main()
