"""The processes that train together: what they sum, tell one another, and agree upon.

Between them is MXNet's parameter server in its mode `dist_sync`, which adds up what all workers push.
Every rank runs the same program on its share of each batch, so each calls these functions as
often and in the same order as the others.
"""

from __future__ import annotations

import json
import os
from collections import deque
from functools import partial
from pathlib import Path
from typing import Any, Deque, Dict, List, Mapping, Optional, Sequence

import mxnet as mx
import numpy as np

from segtrain.machines import heartbeat
from segtrain.run import Arrays, Run, pack

LAG = 2  # steps after which a request to stop is answered, so that no step waits for the others
_STEP, _LENGTHS, _SHORT, _LONG = range(1 << 20, (1 << 20) + 4)  # keys; the trainer's begin at 0
_SIZES = {_SHORT: 1 << 12, _LONG: 1 << 18}  # numbers in a message


class Ranks:
    """A process that trains alone; `Workers` are several."""

    size, rank = 1, 0
    store: Optional[Any] = None
    """The kvstore that sums gradients over the ranks."""

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes."""
        return self.rank == 0

    def share(self, batch: np.ndarray) -> np.ndarray:
        """This rank's slice of a batch over all ranks; it may be empty."""
        return np.array_split(batch, self.size)[self.rank]

    def totals(self, values: Sequence[float]) -> mx.nd.NDArray:
        """The sums over the ranks, (len(values),) float32, of a training step; waits for nobody."""
        return mx.nd.array(values)

    def agree(self, stop: bool) -> bool:
        """Whether all ranks stop now, because one of them was asked to a few steps ago."""
        heartbeat.advance()
        return stop

    def gather(self, data: bytes) -> List[bytes]:
        """What each rank has, in their order; waits for all of them."""
        return [data]

    def from_first(self, data: bytes) -> bytes:
        """What the first rank has; waits for all of them."""
        return self.gather(data if self.first else b"")[0]

    def run(self, path: Path) -> Run:
        """The run folder, which the first rank alone writes to and reads from."""
        return Run(path)


class Workers(Ranks):
    """The workers of a parameter server that is already there.

    rank: this one's, where the launcher has given it one (SEGTRAIN_RANK); else the server's choice.
    """

    def __init__(self, store: Any):
        # The trainer hands out the parameters just before it sends the first gradients, and MXNet
        # doesn't keep that order by itself.
        store.broadcast = partial(_broadcast, store)
        self.store, self.size = store, store.num_workers
        self.rank = int(os.environ.get("SEGTRAIN_RANK", store.rank))
        self._buffers: Dict[int, mx.nd.NDArray] = {}
        self._flags: Deque[mx.nd.NDArray] = deque()
        self._asked = self._agreed = False

    def totals(self, values: Sequence[float]) -> mx.nd.NDArray:
        mine = mx.nd.array([*values, float(self._asked)])
        summed = self._add(_STEP, mine)
        self._flags.append(summed[-1:])
        if len(self._flags) > LAG:
            self._agreed |= bool(self._flags.popleft().asscalar())
        return summed[:-1]

    def agree(self, stop: bool) -> bool:
        heartbeat.advance()
        self._asked = stop
        return self._agreed

    def gather(self, data: bytes) -> List[bytes]:
        lengths = np.zeros((self.size, 2), np.float32)  # a float32 counts to 2^24
        lengths[self.rank] = divmod(len(data), 1 << 16)
        high, low = self._sum_exactly(_LENGTHS, lengths.ravel()).reshape(-1, 2).astype(int).T
        ends = np.cumsum((high << 16) + low)
        starts = np.concatenate([[0], ends[:-1]])
        whole = bytearray(int(ends[-1]) + ends[-1] % 2)
        whole[starts[self.rank] : ends[self.rank]] = data
        heard = self._exchange(np.frombuffer(bytes(whole), np.uint16))
        return [heard[start:end] for start, end in zip(starts, ends)]

    def run(self, path: Path) -> Run:
        return _SharedRun(path, self)

    def _exchange(self, mine: np.ndarray) -> bytes:
        """The sum of uint16 numbers of which each is another rank's zero, as bytes."""
        key = _SHORT if len(mine) <= _SIZES[_SHORT] else _LONG
        heard, room = [], _SIZES[key]
        for start in range(0, len(mine), room):
            part = mine[start : start + room]
            padded = np.zeros(room, np.float32)
            padded[: len(part)] = part
            heard.append(self._sum_exactly(key, padded)[: len(part)].astype(np.uint16))
        return b"".join(part.tobytes() for part in heard)

    def _sum_exactly(self, key: int, values: np.ndarray) -> np.ndarray:
        return self._add(key, mx.nd.array(values)).asnumpy()

    def _add(self, key: int, mine: mx.nd.NDArray) -> mx.nd.NDArray:
        """The sums over the ranks, on their way.

        Through one array for each key: that makes MXNet keep the order of the messages. The server
        counts messages, not ranks, and would add up two of one that is early.
        """
        if key not in self._buffers:
            self._buffers[key] = mx.nd.zeros_like(mine)
            _init(self.store, key, self._buffers[key])
        buffer = self._buffers[key]
        buffer[:] = mine
        self.store.pushpull(key, buffer)  # type: ignore[union-attr]
        return buffer.copy()


def _init(store: Any, key: int, value: mx.nd.NDArray) -> None:
    """Make a key known to the servers, and be sure that it is before anybody asks for it.

    From a copy that went through numpy: a weight that has been used may lie in oneDNN's layout, which
    MXNet 1.9.1 can't send; it says so only later, and the server dies meanwhile.
    """
    store.init(key, mx.nd.array(value.asnumpy(), dtype=value.dtype))
    mx.nd.waitall()
    store._barrier()


def _broadcast(store: Any, key: int, value: mx.nd.NDArray, out: Any, priority: int = 0) -> None:
    """Give all ranks one rank's value; waits until all of them have it."""
    _init(store, key, value)
    store.pull(key, out, priority=priority)
    mx.nd.waitall()
    store._barrier()


class _SharedRun(Run):
    """A run folder that the first rank reads for all, and alone writes."""

    def __init__(self, path: Path, ranks: Ranks):
        super().__init__(path)
        self._ranks = ranks

    def lock(self) -> int:
        return super().lock() if self._ranks.first else os.open(os.devnull, os.O_RDONLY)

    def log(self, line: str) -> None:
        if self._ranks.first:
            super().log(line)

    def write_history(self, rows: List[Dict[str, Any]]) -> None:
        if self._ranks.first:
            super().write_history(rows)

    def has(self, name: str) -> bool:
        return bool(self._ranks.from_first(b"1" if self._ranks.first and super().has(name) else b""))

    def save(self, name: str, arrays: Mapping[str, Arrays], state: Dict[str, Any]) -> None:
        if self._ranks.first:
            heartbeat.tell(stage="saving")
            super().save(name, arrays, state)
            heartbeat.tell(stage="training")

    def prune(self, prefix: str, keep: int) -> None:
        if self._ranks.first:
            super().prune(prefix, keep)

    def load(self, name: str, files: tuple[str, ...]) -> tuple[Dict[str, Arrays], Dict[str, Any]]:
        arrays, state = super().load(name, files) if self._ranks.first else ({}, {})
        for file in files:
            packed = pack(arrays[file]) if self._ranks.first else b""
            arrays[file] = mx.nd.load_frombuffer(self._ranks.from_first(packed))
        return arrays, json.loads(self._ranks.from_first(json.dumps(state).encode()))


ALONE = Ranks()


def join() -> Ranks:
    """The ranks that this process is one of: those of the parameter server that DMLC_* name, if any.

    Waits until all of them are there.
    """
    if os.environ.get("DMLC_ROLE") != "worker":
        return ALONE
    heartbeat.tell(stage="joining")
    workers = Workers(mx.kv.create("dist_sync"))
    heartbeat.tell(stage="training")
    return workers
