"""The processes that train together: what they sum, tell one another, and agree upon.

Between them is an engine behind MXNet's own interface of a kvstore: rank, num_workers, broadcast, and
pushpull, which adds up what all ranks have (`parameter_server`, or Horovod's `allreduce`). Every rank
runs the same program on its share of each batch, so each calls these functions as often and in
the same order as the others.
"""

from __future__ import annotations

import json
import os
from collections import deque
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Deque, Dict, Iterator, List, Mapping, Sequence

import mxnet as mx
import numpy as np

from segtrain.machines import heartbeat
from segtrain.run import Arrays, Run, pack

LAG = 2  # steps after which a request is answered, so that no step waits for the others
_STEP, _LENGTHS, _SHORT, _LONG = range(1 << 20, (1 << 20) + 4)  # keys; the trainer's begin at 0
_SIZES = {_SHORT: 1 << 12, _LONG: 1 << 18}  # numbers in a message


class Ranks:
    """A process that trains alone; `Workers` are several."""

    size, rank = 1, 0
    store: Any = None
    """The kvstore that sums gradients over the ranks."""

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes."""
        return self.rank == 0

    def share(self, batch: np.ndarray) -> np.ndarray:
        """This rank's part of the indices (n,) of a batch over all ranks; it may be empty."""
        return np.array_split(batch, self.size)[self.rank]

    def totals(self, values: Sequence[float]) -> mx.nd.NDArray:
        """The sums over the ranks, (len(values),) float32, of a training step; waits for nobody."""
        return mx.nd.array(values)

    def agree(self, stop: bool) -> bool:
        """Whether all ranks stop now, because one of them was asked to a few steps ago."""
        heartbeat.advance()
        return stop

    def agree_to_save(self, late: bool) -> bool:
        """Whether all ranks save now, because it was `late` for the first one a few steps ago."""
        return late

    def gather(self, data: bytes) -> List[bytes]:
        """What each rank has, in their order; waits for all of them."""
        return [data]

    def from_first(self, data: bytes) -> bytes:
        """What the first rank has; waits for all of them."""
        return self.gather(data if self.first else b"")[0]

    def run(self, path: Path) -> Run:
        """The run folder, which the first rank alone writes to and reads from."""
        return Run(path)

    def leave(self) -> None:
        """Part from the others, with whom nothing is exchanged any more."""


class Workers(Ranks):
    """Processes that have met.

    engine: a module with `join`, which gives a kvstore, and `leave`; rank: this one's, where the
    launcher has given it one (SEGTRAIN_RANK); else the engine's choice.
    """

    def __init__(self, engine: Any):
        self._engine, self.store, self._apart = engine, engine.join(), False
        self.size = self.store.num_workers
        self.rank = int(os.environ.get("SEGTRAIN_RANK", self.store.rank))
        self._buffers: Dict[int, mx.nd.NDArray] = {}
        self._requests: Deque[mx.nd.NDArray] = deque()
        self._stop_asked = self._stop_agreed = False
        self._save_asked = self._save_agreed = self._waiting = False

    def totals(self, values: Sequence[float]) -> mx.nd.NDArray:
        asked = [float(self._stop_asked), float(self._save_asked)]
        self._save_asked = False
        summed = self._add(_STEP, mx.nd.array([*values, *asked]))
        self._requests.append(summed[-len(asked) :])
        if len(self._requests) > LAG:
            stop, save = self._requests.popleft().asnumpy() > 0
            self._stop_agreed |= bool(stop)
            self._save_agreed |= bool(save)
        return summed[: -len(asked)]

    def agree(self, stop: bool) -> bool:
        heartbeat.advance()
        self._stop_asked = stop
        return self._stop_agreed

    def agree_to_save(self, late: bool) -> bool:
        agreed, self._save_agreed = self._save_agreed, False
        asks = late and self.first and not (agreed or self._waiting)  # once, until it is answered
        self._save_asked |= asks
        self._waiting = asks or (self._waiting and not agreed)
        return agreed

    def gather(self, data: bytes) -> List[bytes]:
        if self._apart:
            return [data]
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

    def leave(self) -> None:
        mx.nd.waitall()
        self._engine.leave(self.store)
        self._apart = True

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

        Through one array for each key: that makes MXNet keep the order of the messages. The parameter
        server counts messages, not ranks, and would add up two of one that is early; Horovod
        refuses a second one of the same name.
        """
        if key not in self._buffers:
            self._buffers[key] = mx.nd.zeros_like(mine)
            self.store.broadcast(key, self._buffers[key], self._buffers[key])
        buffer = self._buffers[key]
        buffer[:] = mine
        self.store.pushpull(key, buffer)
        return buffer.copy()


class _SharedRun(Run):
    """A run folder that the first rank reads for all, and alone writes."""

    def __init__(self, path: Path, ranks: Ranks):
        super().__init__(path)
        self._ranks, self.mine = ranks, ranks.first

    @contextmanager
    def locked(self) -> Iterator[None]:
        with super().locked() if self._ranks.first else nullcontext():
            yield

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
    """The ranks that this process is one of, when all of them are there.

    Those of Horovod where the variables HOROVOD_* name them, those of the parameter server that DMLC_*
    name, or this process alone.
    """
    by_horovod = "HOROVOD_RANK" in os.environ
    if not by_horovod and os.environ.get("DMLC_ROLE") != "worker":
        return ALONE
    heartbeat.tell(stage="joining")
    if by_horovod:
        from segtrain.machines import allreduce as engine
    else:
        from segtrain.machines import parameter_server as engine  # type: ignore[no-redef]
    workers = Workers(engine)
    heartbeat.tell(stage="training")
    return workers
