"""Augmented training crops per second from CamVid's files and from the cache, against GluonCV's.

GluonCV's is its own SegmentationDataset (Pillow, its `_sync_transform`, ImageNet normalisation) in
Gluon's DataLoader; ours makes the same kind of crop: scaled by 0.5 to 2, mirrored, blurred. Both with
the same number of worker processes, in turns.

    python scripts/bench_data.py ../shared/data/camvid [--rounds 5] [--workers 1] [--json FILE]
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np

import segtrain  # noqa: F401  sets the threads before MXNet is loaded  # isort: skip
import mxnet as mx
from gluoncv.data.segbase import SegmentationDataset
from mxnet import gluon
from mxnet.gluon.data.vision import transforms
from PIL import Image

from segtrain.config import Data
from segtrain.data.cache import cached
from segtrain.data.dataset import open_split
from segtrain.data.loader import open_loader
from segtrain.data.scan import scan

CROP, BATCH = 256, 8


class CamVid(SegmentationDataset):
    NUM_CLASS = 11

    def __init__(self, root):
        normal = transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        steps = transforms.Compose([transforms.ToTensor(), normal])
        super().__init__(str(root), "train", "train", steps, base_size=480, crop_size=CROP)
        self._images = sorted((Path(root) / "train/images").iterdir())

    def __len__(self):
        return len(self._images)

    @property
    def pred_offset(self):
        return 0

    def __getitem__(self, index):
        path = self._images[index]
        image = Image.open(path).convert("RGB")
        mask = Image.open(path.parents[1] / "masks" / path.name)
        image, mask = self._sync_transform(image, mask)
        return self.transform(image), mask


def gluoncvs(root, workers):
    loader = gluon.data.DataLoader(
        CamVid(root), BATCH, shuffle=True, last_batch="rollover", num_workers=workers
    )

    def epoch():
        count = 0
        for images, _ in loader:
            images.wait_to_read()
            count += len(images)
        return count

    return epoch


def ours(root, workers, cache):
    data = Data(
        name="camvid",
        root=root,
        crop=[CROP, CROP],
        augment=["scale(0.5, 2)", "flip", "blur(1)"],
        cache=cache,
    )
    dataset = open_split(data, "train")
    kept = cached(dataset, data, scan(dataset, "train", data).sizes, 3)
    for index in range(len(kept.ids)):  # a training's first epoch does this on the way
        kept.read(index)
    loader, number = open_loader(kept, data, 3, BATCH, 0, workers), iter(range(10**6))

    def epoch():
        count = 0
        for batch in loader.epoch(next(number)):
            mx.nd.array(batch.images, dtype="uint8").wait_to_read()
            count += len(batch.indices)
        return count

    return epoch


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    makers = {
        "gluoncv": gluoncvs(options.root, options.workers),
        "files": ours(options.root, options.workers, "none"),
        "cache": ours(options.root, options.workers, "ram"),
    }
    speeds = {name: [] for name in makers}
    for _ in range(options.rounds + 1):
        for name, epoch in makers.items():
            start = time.perf_counter()
            speeds[name].append(epoch() / (time.perf_counter() - start))
    result = {name: statistics.median(values[1:]) for name, values in speeds.items()}
    for name in ("files", "cache"):
        ratios = [a / b for a, b in zip(speeds[name][1:], speeds["gluoncv"][1:])]
        result[f"{name} over gluoncv"] = statistics.median(ratios)
        print(f"{name}: {result[name]:.0f} images/s, {statistics.median(ratios):.2f}x GluonCV's")
    print(f"gluoncv: {result['gluoncv']:.0f} images/s ({options.workers} workers, crops of {CROP})")
    result["versions"] = {"mxnet": mx.__version__, "numpy": np.__version__}
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
