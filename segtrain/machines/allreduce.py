"""Horovod as the store that sums over the ranks: each rank talks to all others, without a server.

The name `horovod` of MXNet's own stores is no other than `local` in the wheels of 1.9.1: it sums nothing
over processes. This one is handed to the trainer as an object.
"""

from __future__ import annotations

import ipaddress
import os
from typing import Any, List, Optional

import mxnet as mx

from segtrain.errors import UserError

try:
    import horovod.mxnet as hvd
    import psutil
except ImportError as error:
    raise UserError(
        f"Horovod isn't here, or not built for this MXNet ({error}); the README has the command"
    ) from None


def join() -> Horovod:
    """The store, when all ranks are there; the variables HOROVOD_* say where they meet."""
    address = os.environ.get("SEGTRAIN_ADDRESS")
    if address:
        os.environ["HOROVOD_GLOO_IFACE"] = interface(address)
    hvd.init()
    return Horovod()


def leave(store: Any) -> None:
    """Tell the others, who would take it for a failure."""
    hvd.shutdown()


def interface(address: str) -> str:
    """The network interface of this machine that an IPv4 address belongs to."""
    wanted = ipaddress.ip_address(address)
    for name, addresses in psutil.net_if_addrs().items():
        for own in addresses:
            if own.family.name == "AF_INET" and own.netmask:
                network = ipaddress.ip_network(f"{own.address}/{own.netmask}", strict=False)
                if own.address == address or (wanted.is_loopback and wanted in network):
                    return name
    raise UserError(f"{address} is no address of {os.uname().nodename}: what do the others call it?")


class Horovod(mx.kv.KVStoreBase):
    """What `gluon.Trainer` asks of a store: sums over a rank's devices and over the ranks."""

    type = "horovod"

    @property
    def rank(self) -> int:
        return hvd.rank()

    @property
    def num_workers(self) -> int:
        return hvd.size()

    @staticmethod
    def is_capable(capability: str) -> bool:
        """Nothing is updated here."""
        return False

    def broadcast(self, key: int, value: mx.nd.NDArray, out: Any, priority: int = 0) -> None:
        """Give all ranks the first one's value.

        From a copy that went through numpy, since a weight may lie in oneDNN's layout.
        """
        plain = mx.nd.array(value.asnumpy(), dtype=value.dtype, ctx=mx.cpu())
        hvd.broadcast_(plain, 0, name=f"broadcast {key}", priority=priority)
        for array in _listed(out):
            plain.copyto(array)

    def pushpull(self, key: int, value: Any, out: Optional[Any] = None, priority: int = 0) -> None:
        """Put the sum over all devices of all ranks into `out`, or in place; waits for nobody."""
        values = _listed(value)
        there = values[0].context if hvd.nccl_built() else mx.cpu(values[0].context.device_id)
        total = values[0].as_in_context(there)
        if len(values) > 1:
            total = mx.nd.add_n(*(each.as_in_context(there) for each in values))
        hvd.allreduce_(total, op=hvd.Sum, name=f"sum {key}", priority=priority)
        for array in _listed(value if out is None else out):
            if array is not total:
                total.copyto(array)


def _listed(arrays: Any) -> List[mx.nd.NDArray]:
    return list(arrays) if isinstance(arrays, (list, tuple)) else [arrays]
