"""Evaluation of segtrain against GluonCV's loop, in turns: the ratio of images per second.

The same network and the same images at the same size: CamVid's validation split, else synthetic ones
of 480x360. Two networks, untrained: the U-Net of configs/camvid-unet.yaml, and a 1x1 convolution, which
shows what a loop costs by itself, as where a fast device runs the network. GluonCV's is the validation
of its scripts' train.py: DataLoader, DataParallelModel(SegEvalModel(net)), SegmentationMetric. It runs

- hybridized, on the same threads as ours, with one loader process, which is the best that we know;
- the same, but not hybridized, as that script has it;
- with all of that script's defaults, in a process of its own: not hybridized, batches of 16, 16 loader
  processes, and as many threads as MXNet takes by itself, one for each two cores.

    python scripts/bench_eval.py [../shared/data/camvid] [--images 20] [--rounds 5] [--json FILE]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

import segtrain  # noqa: F401  sets the threads before MXNet is loaded  # isort: skip
import mxnet as mx
import turns
from gluoncv.data.segbase import SegmentationDataset
from gluoncv.model_zoo.segbase import SegEvalModel
from gluoncv.utils.metrics import SegmentationMetric
from gluoncv.utils.parallel import DataParallelModel
from mxnet import gluon
from mxnet.gluon.data.vision import transforms
from PIL import Image

from segtrain import models
from segtrain.config import Model, load
from segtrain.data import shapes
from segtrain.data.dataset import open_split
from segtrain.evaluation.evaluate import evaluate
from segtrain.prediction.infer import Predictor

CONFIG = Path(__file__).parents[1] / "configs/camvid-unet.yaml"
CLASSES, VOID = 11, 11


class CamVid(SegmentationDataset):
    """GluonCV's dataset at native size, its mask with -1 for void, as its metric wants it."""

    NUM_CLASS = CLASSES

    def __init__(self, root, count):
        normal = transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        steps = transforms.Compose([transforms.ToTensor(), normal])
        super().__init__(str(root), "val", "testval", steps)
        self._images = sorted((Path(root) / "val/images").iterdir())[:count]

    def __len__(self):
        return len(self._images)

    def __getitem__(self, index):
        path = self._images[index]
        image = Image.open(path).convert("RGB")
        mask = Image.open(path.parents[1] / "masks" / path.name)
        return self.transform(self._img_transform(image)), self._mask_transform(mask)

    def _mask_transform(self, mask):
        ids = np.array(mask).astype("int32")
        ids[ids == VOID] = -1
        return mx.nd.array(ids, mx.cpu())


class Evaluable(gluon.Block):
    """A network with the method that SegEvalModel calls."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def evaluate(self, x):
        return self.net(x)


NETWORKS = {
    "camvid-unet": load(CONFIG).model,
    "1x1 convolution": Model(name="chain", layers=[{"block": "head"}]),
}


def network(model, normalised):
    """The model's network; where its input is normalised already, it shifts by 0 and scales by 1."""
    net = models.network(model, CLASSES, *(([0.0] * 3, [1.0] * 3) if normalised else ()))
    models.initialize(net, model, [mx.cpu()], 0)
    return net


class Way(NamedTuple):
    """How GluonCV's loop is run."""

    hybrid: bool
    workers: int = 1
    batch: int = 1


DEFAULTS = Way(hybrid=False, workers=16, batch=16)


def gluoncvs(model, root, count, way):
    net = network(model, normalised=True)
    net.hybridize(way.hybrid, static_alloc=way.hybrid, static_shape=way.hybrid)
    # the script's last_batch="rollover" would leave out what doesn't fill a batch
    options = {"last_batch": "keep", "num_workers": way.workers}
    loader = gluon.data.DataLoader(CamVid(root, count), way.batch, **options)
    evaluator = DataParallelModel(SegEvalModel(Evaluable(net)), [mx.cpu()])
    metric = SegmentationMetric(CLASSES)

    def run():
        metric.reset()
        for data, target in loader:
            outputs = [x[0] for x in evaluator(data.astype("float32", copy=False))]
            targets = gluon.utils.split_and_load(target, [mx.cpu()], even_split=False)
            metric.update(targets, outputs)
            metric.get()
            mx.nd.waitall()
        return metric.get()[1]

    return run


class Apart:
    """GluonCV's loop with its defaults, in a process that has the threads MXNet takes by itself."""

    def __init__(self, name, root, count):
        threads = {"OMP_NUM_THREADS": str(max(1, os.cpu_count() // 2))}
        command = [sys.executable, __file__, str(root), "--images", str(count), "--serve", name]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._process = subprocess.Popen(command, env={**os.environ, **threads}, **pipes)

    def __call__(self):
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self):
        self._process.terminate()  # the loaders' processes hold its input open
        self._process.wait()


def serve(name, root, count):
    """Run the loop for each line that comes in."""
    loop = gluoncvs(NETWORKS[name], root, count, DEFAULTS)
    for _ in sys.stdin:
        print(json.dumps(loop()), flush=True)


class Some:
    """The first images of a dataset."""

    def __init__(self, dataset, count):
        self._dataset, self.ids = dataset, dataset.ids[:count]

    def __getattr__(self, name):
        return getattr(self._dataset, name)


def ours(model, root, count):
    net = network(model, normalised=False)
    config = load(CONFIG, [f"data.root={root}"])
    dataset = Some(open_split(config.data, "val"), count)
    predictor = Predictor(net.inference(), mx.cpu(), stride=net.stride)

    def run():
        return evaluate(predictor, dataset)["miou"]

    return run


def synthetic(home, count):
    """Pairs of CamVid's size and form where the dataset isn't there."""
    source = shapes.build("val", size=(360, 480), val=count)
    for index in range(count):
        image, mask = source.read(index)
        for kind, pixels in (("images", image[..., ::-1]), ("masks", mask)):
            path = Path(home) / "val" / kind / f"{index:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), pixels)
    return Path(home)


def main():
    parser = turns.parser(__doc__)
    parser.add_argument("root", type=Path, nargs="?")
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.root, options.images)
        return
    found, ratios, scores = {}, {}, {}
    with tempfile.TemporaryDirectory() as home:
        there = options.root and (options.root / "val/images").is_dir()
        root = options.root if there else synthetic(home, options.images)
        for name in NETWORKS:
            speeds, scores[name] = measured(name, root, options)
            found.update({f"{name}, {who}": values for who, values in speeds.items()})
            mine = speeds.pop("segtrain")
            ratios.update({f"{name} over {who}": turns.ratio(mine, o) for who, o in speeds.items()})
    made = turns.result(
        __doc__,
        "eval",
        options.rounds,
        "images/s",
        found,
        ratios,
        settings={"images": "CamVid" if there else "synthetic, 480x360", "count": options.images},
        details={"miou": scores},
    )
    turns.finish(made, options.json)


def measured(name, root, options):
    """Images per second of each loop in each round, and the mIoU that each came to."""
    model, apart = NETWORKS[name], Apart(name, root, options.images)
    loops = {
        "segtrain": ours(model, root, options.images),
        "gluoncv, hybridized": gluoncvs(model, root, options.images, Way(hybrid=True)),
        "gluoncv": gluoncvs(model, root, options.images, Way(hybrid=False)),
        "gluoncv, its defaults": apart,
    }
    scores = {}

    def noted(who):
        def turn():
            scores[who] = loops[who]()
            return options.images

        return turn

    found = turns.take({who: noted(who) for who in loops}, options.rounds)
    apart.close()
    return found, scores


if __name__ == "__main__":
    main()
