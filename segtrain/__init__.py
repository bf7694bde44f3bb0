"""segtrain: train, judge and ship segmentation networks on Apache MXNet Gluon."""

import os

from segtrain.threads import cores
from segtrain.version import __version__ as __version__

# MXNet takes half of the cores for granted to be hyper-threads; it reads this when it is imported.
os.environ.setdefault("OMP_NUM_THREADS", str(cores()))
# Cards in the order of nvidia-smi, which tells what they are; CUDA would put the fastest first.
os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
