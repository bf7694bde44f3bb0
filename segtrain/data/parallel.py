"""A function over many indices in threads, a few ahead of who reads, in order."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Callable, Deque, Iterable, Iterator, TypeVar

from segtrain.prediction.threads import cpus

Result = TypeVar("Result")


def in_threads(function: Callable[[int], Result], indices: Iterable[int]) -> Iterator[Result]:
    """The results in the order of the indices; OpenCV lets go of the interpreter's lock.

    No more than a few results wait at a time, however many indices there are.
    """
    count = cpus()
    waiting: Deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(count)
    try:
        for index in indices:
            waiting.append(pool.submit(function, index))
            if len(waiting) > 4 * count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
        pool.shutdown(wait=True)
