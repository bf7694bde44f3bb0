"""Evaluation of segtrain against GluonCV's loop, in turns: the ratio of images per second.

The same network and the same images at the same size: CamVid's validation split, else synthetic ones
of 480x360. Two networks, untrained: the U-Net of configs/camvid-unet.yaml, and a 1x1 convolution, which
shows what a loop costs by itself, as where a fast device runs the network. GluonCV's is the validation
of its scripts' train.py: DataLoader, DataParallelModel(SegEvalModel(net)), SegmentationMetric; its
network is left as that script has it, or hybridized like ours. Threads are the same for all.

    python scripts/bench_eval.py [../shared/data/camvid] [--images 20] [--rounds 5] [--json FILE]
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

import segtrain  # sets the threads before MXNet is loaded  # isort: skip
import mxnet as mx
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


def gluoncvs(model, root, count, workers, hybrid):
    net = network(model, normalised=True)
    net.hybridize(hybrid, static_alloc=hybrid, static_shape=hybrid)
    loader = gluon.data.DataLoader(CamVid(root, count), 1, last_batch="rollover", num_workers=workers)
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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path, nargs="?")
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=1, help="of GluonCV's DataLoader")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        there = options.root and (options.root / "val/images").is_dir()
        root = options.root if there else synthetic(home, options.images)
        result = {name: measured(model, root, options) for name, model in NETWORKS.items()}
    result["versions"] = {"segtrain": segtrain.__version__, "mxnet": mx.__version__}
    result["images"] = "CamVid" if there else "synthetic, 480x360"
    print(json.dumps(result, indent=1))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))


def measured(model, root, options):
    loops = {
        "segtrain": ours(model, root, options.images),
        "gluoncv": gluoncvs(model, root, options.images, options.workers, hybrid=False),
        "gluoncv, hybridized": gluoncvs(model, root, options.images, options.workers, hybrid=True),
    }
    seconds, scores = {name: [] for name in loops}, {}
    for number in range(options.rounds + 1):
        for name, loop in loops.items():
            begun = time.perf_counter()
            scores[name] = loop()
            if number:  # the first round plans the memory
                seconds[name].append(time.perf_counter() - begun)
    mine = seconds.pop("segtrain")
    return {
        "images_per_second": {
            name: options.images / statistics.median(times)
            for name, times in {"segtrain": mine, **seconds}.items()
        },
        "speedup_over": {
            name: statistics.median(b / a for a, b in zip(mine, times))
            for name, times in seconds.items()
        },
        "miou": scores,
        "rounds": options.rounds,
    }


if __name__ == "__main__":
    main()
