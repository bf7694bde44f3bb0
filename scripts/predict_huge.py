"""The memory that `segtrain predict` takes for a huge image, over that for one window of it.

A small U-Net with random weights predicts a picture of 20,000 x 20,000 pixels, and one of
1024 x 1024, each in a process of its own; what the first takes more at its peak is the image, the rows
that wait for the windows below, and the mask's rows. Fails where that is more than 2 GiB.

    python scripts/predict_huge.py [--side 20000] [--classes 11] [--ending png] [--overlay] [--bar 2.0]
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import mxnet as mx
import numpy as np

from segtrain import models
from segtrain.config import Model
from segtrain.data import shapes
from segtrain.data.dataset import palette
from segtrain.prediction import pictures
from segtrain.prediction.infer import SIDE
from segtrain.prediction.pictures import Kind
from segtrain.prediction.predict import predict
from segtrain.prediction.products import Products
from segtrain.trained import Trained


def draw(path, side):
    """A picture of `side`, of shapes that repeat every 2000 pixels, brighter to the right."""
    tile, _ = shapes.build("test", size=(2000, 2000)).read(0)
    wide = np.tile(tile, (1, -(-side // 2000), 1))[:, :side].astype(np.float32)
    wide = (wide * np.linspace(0.5, 1, side)[:, None]).astype(np.uint8)
    if path.suffix == ".png":
        with path.open("wb") as file:
            png = pictures.Png(file, (side, side))
            for top in range(0, side, 2000):
                png.add(wide[: min(2000, side - top)])
            png.close()
    else:
        import cv2

        rows = np.tile(wide, (-(-side // 2000), 1, 1))[:side]
        options = [cv2.IMWRITE_TIFF_COMPRESSION, 1] if path.suffix == ".tif" else []
        cv2.imwrite(str(path), rows[..., ::-1], options)


def work(image, out, classes, overlay):
    model = Model(name="unet", widths=[8, 16, 32], units=1, fold=4)
    net = models.network(model, classes)
    models.initialize(net, model, [mx.cpu()], seed=0)
    net.hybridize(static_alloc=True, static_shape=True)
    names = [f"class {i}" for i in range(classes)]
    trained = Trained(net, net.stride, net.side, mx.cpu(), names, 255, palette(), Kind())
    predict(trained, [str(image)], out, products=Products(overlay=overlay))


def peak(*arguments):
    """Run this script in a process; its peak of memory in GiB, and its seconds."""
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    subprocess.run([sys.executable, __file__, *map(str, arguments)], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    assert after > before, "the small one must come first"
    return after / 2**20, time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=20000)
    parser.add_argument("--classes", type=int, default=11)
    parser.add_argument("--ending", default="png", choices=["png", "jpg", "tif"])
    parser.add_argument("--overlay", action="store_true")
    parser.add_argument("--bar", type=float, default=2.0, help="GiB")
    parser.add_argument("--work", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(*options.work, options.classes, options.overlay)
        return
    more = ["--classes", options.classes, *["--overlay"] * options.overlay]
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        small, large = home / "small.png", home / f"large.{options.ending}"
        draw(small, SIDE)
        draw(large, options.side)
        own, _ = peak("--work", small, home / "a", *more)
        whole, seconds = peak("--work", large, home / "b", *more)
        mask = pictures.ids((home / "b/large.png").read_bytes())
        assert mask.shape == (options.side, options.side)
        assert len(np.unique(mask)) > 1
    print(
        f"{options.side} x {options.side}, {options.classes} classes, {options.ending}: {whole:.2f} "
        f"GiB, {whole - own:.2f} GiB over the {own:.2f} GiB of a window alone, in {seconds:.0f} s"
    )
    sys.exit(whole - own > options.bar)


if __name__ == "__main__":
    main()
