"""How long the parts of a training take: batches, steps, both together, evaluation, saves."""

from __future__ import annotations

import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any, Iterator, List

from segtrain.data.loader import Batch, Loader
from segtrain.evaluation.evaluate import policy_of
from segtrain.prediction.infer import Predictor
from segtrain.run import Run
from segtrain.training.board import Board
from segtrain.training.session import Session, Watchers
from segtrain.training.stopping import StopRequest
from segtrain.training.train import Prepared


def keep(made: Prepared, count: int) -> List[Batch]:
    """The first batches of the first epoch, as copies that stay."""
    found = []
    for batch in made.loader.epoch(0):
        found.append(Batch(batch.images.copy(), batch.masks.copy(), batch.indices))
        if len(found) == count:
            break
    return found


def data(made: Prepared, epoch: int, count: int) -> float:
    """Seconds between batches when nothing else is done, over up to `count` of an epoch's."""
    times = []
    for _ in made.loader.epoch(epoch):
        times.append(time.perf_counter())
        if len(times) > count:
            break
    return (times[-1] - times[0]) / max(len(times) - 1, 1)


def warm_up(made: Prepared, batch: Batch) -> None:
    """The first step, in which MXNet plans the memory."""
    made.learner.begin(0)
    made.learner.step(batch, 0)
    made.learner.losses()
    made.learner.wait()


def step(made: Prepared, batches: List[Batch], count: int) -> float:
    """Seconds per step on batches that are there already."""
    begun = time.perf_counter()
    for number in range(count):
        made.learner.step(batches[number % len(batches)], number)
    made.learner.losses()
    made.learner.wait()
    return (time.perf_counter() - begun) / count


class _Start:
    """The first `count` batches of a loader's epochs."""

    def __init__(self, loader: Loader, count: int):
        self._loader, self._count = loader, min(count, len(loader))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def __len__(self) -> int:
        return self._count

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        return islice(self._loader.epoch(epoch, start), self._count)


def loop(made: Prepared, epoch: int, count: int) -> float:
    """Seconds per step of an epoch's first `count`, as training takes them.

    With all that belongs to them: waiting for the first batch, the bar, TensorBoard.
    """
    loader: Any = _Start(made.loader, count)
    with tempfile.TemporaryDirectory() as home:
        run = Run.create(Path(home) / "run")
        run.quiet = True
        session = Session(run, made.config, made.learner, loader, made.val, StopRequest(), Watchers())
        session.state["epoch"], session.board = epoch, Board(run.path)
        begun = time.perf_counter()
        session.steps()
        made.learner.wait()
        seconds = time.perf_counter() - begun
        session.board.close()
    return seconds / len(loader)


def image(made: Prepared, index: int) -> float:
    """Seconds to read and judge a validation image."""
    net, context = made.learner.net, made.learner.contexts[0]
    way, index = policy_of(made.config), index % len(made.val.ids)
    predictor = Predictor(net.inference(), context, way, net.side, net.stride)
    predictor.mask(made.val.read(index).image)  # the first one plans the memory
    begun = time.perf_counter()
    predictor.mask(made.val.read(index).image)
    return time.perf_counter() - begun


def save(made: Prepared, home: Path) -> float:
    """Seconds for a checkpoint on the disk of the folder `home`."""
    with tempfile.TemporaryDirectory(dir=home) as folder:
        begun = time.perf_counter()
        arrays = {"model": made.learner.model_arrays(), "optimizer": made.learner.optimizer_arrays()}
        Run(Path(folder)).save("last", arrays, {})
        return time.perf_counter() - begun
