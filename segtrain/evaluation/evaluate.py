"""Scores at native resolution: every pixel of every image counts once, as it was annotated."""

from __future__ import annotations

import csv
import io
import json
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from hashlib import sha256
from typing import Any, Callable, Generator, Iterable, Iterator, NamedTuple, Sequence, TypeVar

import numpy as np

from segtrain import plugins
from segtrain.bar import Bar
from segtrain.config import Config
from segtrain.data.dataset import Dataset, Sample
from segtrain.errors import Stopped, UserError
from segtrain.evaluation import events, metrics
from segtrain.evaluation.metrics import Counts
from segtrain.machines.ranks import ALONE, Ranks
from segtrain.prediction.infer import Policy, Predictor
from segtrain.prediction.threads import cpus

AHEAD = 1 << 28  # bytes of samples that wait their turn
Item = TypeVar("Item")
Made = TypeVar("Made")


class Seen(NamedTuple):
    """A sample with what the network says of it."""

    id: str
    truth: np.ndarray  # (H, W) or (L,) uint8
    mask: np.ndarray  # likewise
    probabilities: np.ndarray | None = None  # (classes, H, W)


def policy_of(config: Config) -> Policy:
    """The config's way of sending an image through the network."""
    e = config.eval
    return Policy(tuple(e.scales), e.flip, e.window, e.overlap, e.blend)


def evaluate(
    predictor: Predictor,
    dataset: Dataset,
    stop: Callable[[], bool] = lambda: False,
    tolerance_ms: float = 150,
    measures: Sequence[str] = (),
    keep: Callable[[str, np.ndarray], None] | None = None,
    ranks: Ranks = ALONE,
) -> dict[str, Any]:
    """The result of `segtrain eval` as a dict for JSON; Stopped where `stop` asked to.

    measures: modules of segtrain.measures, whose scores are added; keep: called with each sample's
    id and predicted mask, in order, in a thread of its own; ranks: processes that share the samples,
    without measures.

    Keys: miou, miou_ci95 and the rest of metrics.summary, per_class, confusion (rows: truth), policy,
    images_per_second, images[{id, miou, pixel_accuracy, truth_sha256, counts}]: an image's miou is its
    own, None where all of it is ignored, and its counts are those of metrics.Counts. With `measures`
    also their figures, and measures: the policy of each. For signals whose rate is known also events:
    onsets and offsets matched within `tolerance_ms`.
    """
    book = _Book(dataset, tolerance_ms, measures, keep)
    begun = time.perf_counter()
    mine = range(ranks.rank, len(dataset.ids), ranks.size)
    seen = _look(predictor, dataset, mine, stop, book.probabilistic)
    counted = Bar(_ahead(book.add, seen), total=len(mine), desc="eval", unit="sample", leave=False)
    rows = list(counted)
    if len(rows) < len(mine):
        raise Stopped("stopped before all was scored")
    rows = book.pool(rows, ranks)
    seconds = time.perf_counter() - begun
    return {
        **book.result(rows),
        "policy": {
            "absent_classes": metrics.POLICY,
            "ignore": dataset.ignore,
            **predictor.policy._asdict(),
            "scales": list(predictor.policy.scales),
        },
        "images": rows,
        "images_per_second": len(rows) / seconds,
    }


class _Book:
    """Keeps the counts of the samples seen."""

    def __init__(
        self,
        dataset: Dataset,
        tolerance_ms: float,
        measures: Sequence[str],
        keep: Callable[[str, np.ndarray], None] | None,
    ):
        self._classes, self._ignore, self._keep = dataset.classes, dataset.ignore, keep
        self._confusion = np.zeros((len(dataset.classes),) * 2, np.int64)
        self._events = events.tally(dataset, tolerance_ms)
        self._measures = {
            name: plugins.find("measures", name).build(len(dataset.classes), dataset.ignore)
            for name in measures
        }
        for name, measure in self._measures.items():
            if measure.images_only and getattr(dataset, "dim", 2) == 1:
                raise UserError(
                    f"the measure {name!r} is for images, and these are signals: leave it out; their "
                    "onsets and offsets are scored without it, where data.rate is given"
                )
        self.probabilistic = any(m.probabilistic for m in self._measures.values())

    def add(self, seen: Seen) -> dict[str, Any]:
        """Count a sample; its row of `images`."""
        matrix = metrics.confusion(seen.truth, seen.mask, len(self._classes), self._ignore)
        self._confusion += matrix
        own = metrics.counts(matrix)
        row = {
            "id": seen.id,
            "miou": metrics.number(metrics.miou(own)),
            "pixel_accuracy": metrics.number(metrics.ratio(own.hits.sum(), own.truth.sum())),
        }
        if self._events:
            self._events.add(seen.truth, seen.mask)
        for measure in self._measures.values():
            row.update(measure.add(seen.truth, seen.mask, seen.probabilities))
        if self._keep:
            self._keep(seen.id, seen.mask)
        digest = sha256(f"{seen.truth.shape}".encode())
        digest.update(np.ascontiguousarray(seen.truth).data)
        counts = {key: array.tolist() for key, array in own._asdict().items()}
        return {**row, "truth_sha256": digest.hexdigest()[:16], "counts": counts}

    def pool(self, rows: list[dict[str, Any]], ranks: Ranks) -> list[dict[str, Any]]:
        """Take in what the other ranks have counted; the rows of all samples, in their order."""
        if ranks.size == 1:
            return rows
        mine = [rows, self._confusion.tolist(), self._events.parts() if self._events else None]
        parts = [json.loads(part) for part in ranks.gather(json.dumps(mine).encode())]
        self._confusion = np.sum([confusion for _, confusion, _ in parts], axis=0)
        if self._events:
            self._events.replace([tally for _, _, tally in parts])
        whole: list[dict[str, Any]] = [{}] * sum(len(own) for own, _, _ in parts)
        for rank, (own, _, _) in enumerate(parts):
            whole[rank :: ranks.size] = own
        return whole

    def result(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """The scores over all samples."""
        found = metrics.scores(metrics.counts(self._confusion), self._classes)
        found["miou_ci95"] = metrics.bootstrap(image_counts(rows))
        found["confusion"] = self._confusion.tolist()
        if self._events:
            found["events"] = self._events.result()
        for name, measure in self._measures.items():
            figures, policy, per_class, details = measure.result()
            found.update(**figures, **details)
            found.setdefault("measures", {})[name] = policy
            for key, values in per_class.items():
                for row, value in zip(found["per_class"], values):
                    row[key] = value
        return found


def as_csv(result: dict[str, Any]) -> str:
    """A result as one table: a row for all, one for each class, one for each image.

    `iou` and `dice` of all and of an image are means over classes; blank where there is no number.
    """
    plain = (int, float, type(None))
    whole = {"iou": result["miou"], **{k: v for k, v in result.items() if isinstance(v, plain)}}
    rows = [
        {"scope": "all", "name": "", **whole, "pixels": sum(c["pixels"] for c in result["per_class"])}
    ]
    rows += [{"scope": "class", **row} for row in result["per_class"]]
    for image in result["images"]:
        own = {k: v for k, v in image.items() if isinstance(v, plain)}
        pixels = sum(image["counts"]["truth"])
        rows.append({"scope": "image", "name": image["id"], "iou": own["miou"], **own, "pixels": pixels})
    left_out = {"miou", "images_per_second"}
    columns = [c for c in dict.fromkeys(key for row in rows for key in row) if c not in left_out]
    text = io.StringIO()
    table = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()


def image_counts(rows: Sequence[dict[str, Any]]) -> Counts:
    """The counts (images, classes) of the `images` of a result."""
    return Counts(*(np.array([row["counts"][key] for row in rows], np.int64) for key in Counts._fields))


def _look(
    predictor: Predictor,
    dataset: Dataset,
    indices: Sequence[int],
    stop: Callable[[], bool],
    probabilistic: bool,
) -> Iterator[Seen]:
    """Each of the samples with its prediction, in order, until `stop` asks to; the next are read."""
    readers = max(1, min(4, cpus() - 1))
    samples = _ahead(dataset.read, indices, readers)
    named = zip((dataset.ids[index] for index in indices), samples)
    for group in _of_one_size(named, predictor):
        if stop():
            samples.close()
            return
        parts = predictor.each([sample.image for _, sample in group], probabilistic)
        for (name, sample), part in zip(group, parts):
            yield Seen(name, sample.mask, part.ids, part.probabilities)


def _of_one_size(
    named: Iterable[tuple[str, Sample]], predictor: Predictor
) -> Iterator[list[tuple[str, Sample]]]:
    """Samples in their order, those beside each other that go through the network together."""
    group: list[tuple[str, Sample]] = []
    for name, sample in named:
        shape = sample.image.shape
        if group and shape != group[0][1].image.shape:
            yield group
            group = []
        group.append((name, sample))
        if len(group) >= predictor.together(shape) or predictor.windows(shape):
            yield group
            group = []
    if group:
        yield group


def _ahead(
    function: Callable[[Item], Made], items: Iterable[Item], threads: int = 1
) -> Generator[Made, None, None]:
    """function(item) of each in order, worked out in threads ahead of what is asked for.

    As many are ahead as hold AHEAD bytes, up to two for a thread; of larger ones, none.
    """
    depth = 0
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[tuple[Item, Future[Made]]] = deque()
        try:
            for item in items:
                waiting.append((item, pool.submit(function, item)))
                while len(waiting) > depth:
                    first, future = waiting.popleft()
                    made = future.result()
                    depth = min(2 * threads, AHEAD // max(1, _bytes(first), _bytes(made)))
                    yield made
            while waiting:
                yield waiting.popleft()[1].result()
        finally:
            for _, future in waiting:
                future.cancel()


def _bytes(value: object) -> int:
    """What the arrays of a sample hold; 0 for anything else."""
    parts = value if isinstance(value, tuple) else ()
    return sum(part.nbytes for part in parts if isinstance(part, np.ndarray))
