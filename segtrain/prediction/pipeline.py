"""Work in threads, whose results come in order."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from itertools import repeat
from typing import Any, Callable, Deque, Generator, Iterable, Iterator, List


def ordered(tasks: Iterable[Callable[[], Any]], workers: int) -> Generator[Future, None, None]:
    """Run tasks in threads, and give their futures, done, in the order of the tasks.

    The tasks are taken as they are needed, a few ahead, in the thread that asks for the futures.
    """
    with ThreadPoolExecutor(workers) as pool:
        waiting: Deque[Future] = deque()
        try:
            for task in tasks:
                waiting.append(pool.submit(task))
                if len(waiting) > workers + 1:
                    yield _waited(waiting)
            while waiting:
                yield _waited(waiting)
        finally:
            for future in waiting:
                future.cancel()


def _waited(waiting: Deque[Future]) -> Future:
    future = waiting.popleft()
    wait([future])
    return future


def ahead(items: Iterator[Any]) -> Iterator[Any]:
    """The items, the next ones made in a thread meanwhile."""
    tasks = repeat(partial(next, items, None))
    for future in ordered(tasks, 1):
        item = future.result()
        if item is None:
            return
        yield item


def chunks(items: Iterable[Any], size: int) -> Iterator[List[Any]]:
    """The items in lists of `size`, the last one of what is left."""
    chunk: List[Any] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
