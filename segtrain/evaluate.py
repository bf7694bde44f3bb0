"""Scores at native resolution: every pixel of every image counts once, as it was annotated."""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Callable, Iterator

import numpy as np
from tqdm import tqdm

from segtrain import events, metrics
from segtrain.config import Config
from segtrain.data.dataset import Dataset, Sample
from segtrain.infer import Policy, Predictor


def policy_of(config: Config) -> Policy:
    """The config's way of sending an image through the network."""
    e = config.eval
    return Policy(tuple(e.scales), e.flip, e.window, e.overlap, e.blend)


def evaluate(
    predictor: Predictor,
    dataset: Dataset,
    stop: Callable[[], bool] = lambda: False,
    tolerance_ms: float = 150,
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
    samples = tqdm(_read_ahead(dataset), total=len(dataset.ids), desc="eval", disable=None, leave=False)
    for index, sample in enumerate(samples):
        if stop():
            samples.close()
            return None
        mask = predictor.mask(sample.image)
        matrices[index] = metrics.confusion(sample.mask, mask, len(classes), dataset.ignore)
        if tally:
            tally.add(sample.mask, mask)
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


def _read_ahead(dataset: Dataset, depth: int = 4) -> Iterator[Sample]:
    """The samples in order, the next ones read in a thread meanwhile."""
    with ThreadPoolExecutor(1) as pool:
        waiting: deque[Future] = deque()
        for index in range(len(dataset.ids)):
            waiting.append(pool.submit(dataset.read, index))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
