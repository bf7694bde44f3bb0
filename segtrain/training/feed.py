"""Batches on their way to the devices."""

from __future__ import annotations

from collections import defaultdict, deque
from typing import Deque, Dict, List, Tuple

import mxnet as mx
import numpy as np
from mxnet import gluon


class Feed:
    """Splits arrays over devices. GPUs get them out of page-locked memory.

    From there a copy needs no processor: MXNet's engine begins it at once, in a thread and a CUDA
    stream that it has for copies alone. `Learner.step` waits for no device, so a batch is copied while
    the kernels of the step before still run.

    The page-locked arrays are kept, two of a shape, and used in turns: MXNet 1.9.1 has no pool of them,
    and CUDA holds up the kernels of all streams while it locks pages.
    """

    def __init__(self, host: mx.Context):
        self._host = host
        self._kept: Dict[Tuple, Deque[mx.nd.NDArray]] = defaultdict(deque)

    def split(self, array: np.ndarray, contexts: List[mx.Context]) -> List[mx.nd.NDArray]:
        """The samples of an array (N, ...), shared out over at most N devices.

        The array is the caller's again at once: that is how the loader can reuse its memory.
        """
        return gluon.utils.split_and_load(self._on_host(array), contexts, even_split=False)

    def _on_host(self, array: np.ndarray) -> mx.nd.NDArray:
        if self._host.device_type == "cpu":
            return mx.nd.array(array, dtype=array.dtype, ctx=self._host)
        kept = self._kept[array.shape, array.dtype]
        if len(kept) < 2:
            kept.append(mx.nd.empty(array.shape, dtype=array.dtype, ctx=self._host))
        kept.rotate()
        kept[0][:] = array  # waits until what it held was copied
        return kept[0]


def host(contexts: List[mx.Context]) -> mx.Context:
    """Where the host keeps what it copies to these devices; all GPUs share what is page-locked."""
    first = contexts[0]
    return mx.cpu_pinned(first.device_id) if first.device_type == "gpu" else mx.cpu()
