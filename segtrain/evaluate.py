"""Scores at native resolution: every pixel of every image counts once, as it was annotated."""

from __future__ import annotations

import json
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Callable, Iterable, Iterator

import numpy as np
from tqdm import tqdm

from segtrain import events, metrics
from segtrain.config import Config
from segtrain.data.dataset import Dataset, Sample
from segtrain.infer import Policy, Predictor
from segtrain.ranks import ALONE, Ranks


def policy_of(config: Config) -> Policy:
    """The config's way of sending an image through the network."""
    e = config.eval
    return Policy(tuple(e.scales), e.flip, e.window, e.overlap)


def evaluate(
    predictor: Predictor,
    dataset: Dataset,
    stop: Callable[[], bool] = lambda: False,
    tolerance_ms: float = 150,
    ranks: Ranks = ALONE,
) -> dict[str, Any] | None:
    """The result of `segtrain eval` as a dict for JSON; None where `stop` asked to.

    Keys: miou, miou_ci95, pixel_accuracy, per_class, confusion (rows: truth), images, policy,
    images_per_second. The score of an image is its own mIoU, None where all of it is ignored.
    For signals whose rate is known also events: onsets and offsets matched within `tolerance_ms`.
    """
    classes = dataset.classes
    matrices = np.zeros((len(dataset.ids), len(classes), len(classes)), np.int64)
    tally = events.tally(dataset, tolerance_ms)
    start = time.perf_counter()
    mine = range(ranks.rank, len(dataset.ids), ranks.size)
    samples = tqdm(_read_ahead(dataset, mine), total=len(mine), desc="eval", disable=None, leave=False)
    for index, sample in zip(mine, samples):
        if stop():
            samples.close()
            return None
        mask = predictor.mask(sample.image)
        matrices[index] = metrics.confusion(sample.mask, mask, len(classes), dataset.ignore)
        if tally:
            tally.add(sample.mask, mask)
    ranks.gather_rows(matrices)
    if tally:
        tally.replace([json.loads(part) for part in ranks.gather(json.dumps(tally.parts()).encode())])
    seconds = time.perf_counter() - start
    pooled = matrices.sum(axis=0)
    return {
        **metrics.scores(pooled, classes),
        "miou_ci95": metrics.bootstrap(matrices),
        "confusion": pooled.tolist(),
        "policy": {
            "absent_classes": metrics.POLICY,
            "ignore": dataset.ignore,
            **predictor.policy._asdict(),
        },
        "images": [
            {"id": name, "miou": metrics.number(metrics.miou(matrix))}
            for name, matrix in zip(dataset.ids, matrices)
        ],
        "images_per_second": len(matrices) / seconds,
        **({"events": tally.result()} if tally else {}),
    }


def _read_ahead(dataset: Dataset, indices: Iterable[int], depth: int = 4) -> Iterator[Sample]:
    """The samples in that order, the next ones read in a thread meanwhile."""
    with ThreadPoolExecutor(1) as pool:
        waiting: deque[Future] = deque()
        for index in indices:
            waiting.append(pool.submit(dataset.read, index))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
