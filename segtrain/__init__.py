"""segtrain: train, judge and ship segmentation networks on Apache MXNet Gluon."""

import importlib
import os
from typing import Any

from segtrain.machines import cuda
from segtrain.prediction.threads import threads
from segtrain.version import __version__ as __version__

# MXNet takes half of the cores for granted to be hyper-threads; it reads this when it is imported.
os.environ.setdefault("OMP_NUM_THREADS", str(threads()))
# One copy at a time set aside for an operator's arguments in another layout: with four, a U-Net's
# step takes 6% more memory and no less time.
os.environ.setdefault("MXNET_CPU_TEMP_COPY", "1")
# Cards in the order of nvidia-smi, which tells what they are; CUDA would put the fastest first.
os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")

cuda.before_mxnet()

# The public names, each from the module that has it, which is imported when it is asked for.
_PUBLIC = {
    "load_config": ("segtrain.config", "load"),
    "train": ("segtrain.training.train", "train"),
    "open_trained": ("segtrain.trained", "open_trained"),
}


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'segtrain' has no attribute {name!r}")
    module, attribute = _PUBLIC[name]
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> "list[str]":
    return sorted([*globals(), *_PUBLIC])
