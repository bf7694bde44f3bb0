"""What only an import or a run can tell of this machine: `python -m segtrain.machines.probe QUESTION`.

Each question is a function here; its answer is printed as JSON. `doctor` asks each in a
process of its own, so that what crashes or hangs is found out and not suffered.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from typing import Any, Dict

SECONDS = 2.0  # that a measurement lasts at least


def mxnet() -> Dict[str, Any]:
    """The versions of MXNet and what it stands on, its features."""
    from importlib import metadata

    import gluoncv  # noqa: F401  (that it can be imported)
    import mxnet as mx
    import numpy as np

    from segtrain.machines import devices

    devices.check_driver()
    return {
        "version": mx.__version__,
        "features": [feature.name for feature in mx.runtime.feature_list() if feature.enabled],
        "gluoncv": metadata.version("gluoncv"),
        "numpy": np.__version__,
    }


def opencv() -> Dict[str, Any]:
    """OpenCV's version."""
    import cv2

    return {"version": cv2.getVersionString()}


def horovod() -> Dict[str, Any]:
    """Horovod's version, where it is installed, and whether it was built for MXNet."""
    if importlib.util.find_spec("horovod") is None:
        return {"version": None, "for_mxnet": False}
    import horovod

    try:
        import horovod.mxnet  # noqa: F401
    except Exception:  # as it says itself that it lacks MXNet, with errors of several kinds
        return {"version": horovod.__version__, "for_mxnet": False}
    return {"version": horovod.__version__, "for_mxnet": True}


def loader() -> Dict[str, Any]:
    """Crops per second of one loader process, over the way that training takes."""
    from segtrain import config
    from segtrain.data import shapes
    from segtrain.data.loader import open_loader

    dataset = shapes.build("train", size=(128, 128), train=64)
    data = config.parse({"data": {"name": "shapes", "crop": [128, 128]}}).data
    with open_loader(dataset, data, 3, 8, 0, workers=1) as batches:
        list(batches.epoch(0))  # starts the process
        begun, count = time.perf_counter(), 0
        while time.perf_counter() - begun < SECONDS / 2:
            count += sum(len(batch.indices) for batch in batches.epoch(1))
        return {"crops_per_second": count / (time.perf_counter() - begun)}


def training(device: str) -> Dict[str, Any]:
    """Images per second of a small U-Net's training on one device."""
    import mxnet as mx
    import numpy as np

    from segtrain import config
    from segtrain.data import shapes
    from segtrain.data.loader import Batch
    from segtrain.machines import devices
    from segtrain.training.learner import Learner

    dataset = shapes.build("train", size=(128, 128), train=8)
    samples = [dataset.read(i) for i in range(8)]
    images = np.stack([np.moveaxis(s.image, -1, 0) for s in samples])
    batch = Batch(images, np.stack([s.mask for s in samples]), list(range(8)))
    about = config.parse({"model": {"widths": [16, 32, 64]}, "data": {"crop": [128, 128]}})
    weights = np.ones(len(dataset.classes))
    learner = Learner(about, dataset, weights, devices.contexts(device), 1000)
    for number in range(3):  # the first ones choose algorithms
        learner.step(batch, number)
    mx.nd.waitall()
    begun, count = time.perf_counter(), 0
    while time.perf_counter() - begun < SECONDS:
        learner.step(batch, count)
        count += 1
        learner.losses()  # waits, and finds a loss that is no number
    return {"images_per_second": 8 * count / (time.perf_counter() - begun)}


QUESTIONS = {f.__name__: f for f in (mxnet, opencv, horovod, loader, training)}

if __name__ == "__main__":
    print(json.dumps(QUESTIONS[sys.argv[1]](*sys.argv[2:])))  # type: ignore[operator]
