"""MXNet's parameter server as the store that sums over the ranks, in its mode `dist_sync`.

Each rank is a worker of a server that is already there, named by the variables DMLC_*.
"""

from __future__ import annotations

import atexit
from functools import partial
from typing import Any

import mxnet as mx


def join() -> Any:
    """The store, when all workers are there."""
    store = mx.kv.create("dist_sync")
    # The trainer hands out the parameters just before it sends the first gradients, and MXNet
    # doesn't keep that order by itself.
    store.broadcast = partial(_broadcast, store)
    return store


def leave(store: Any) -> None:
    """Part from the others and end the servers when Python ends, and wait for the others with it.

    Later MXNet's own threads would be cut off, and the process aborted.
    """
    atexit.register(_free, store)


def _free(store: Any) -> None:
    mx.base.check_call(mx.base._LIB.MXKVStoreFree(store.handle))
    store.handle = None  # which `KVStore.__del__` may free once more


def _broadcast(store: Any, key: int, value: mx.nd.NDArray, out: Any, priority: int = 0) -> None:
    """Give all ranks one rank's value; waits until all of them have it.

    From a copy that went through numpy: a weight that has been used may lie in oneDNN's layout, which
    MXNet 1.9.1 can't send; it says so only later, and the server dies meanwhile.
    """
    store.init(key, mx.nd.array(value.asnumpy(), dtype=value.dtype))
    _wait(store)  # so that nobody asks for a key that the servers don't know yet
    store.pull(key, out, priority=priority)
    _wait(store)


def _wait(store: Any) -> None:
    """Until what was sent is there, for all ranks."""
    mx.nd.waitall()
    store._barrier()
