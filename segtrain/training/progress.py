"""What a person watches while a run trains: one bar per epoch, and lines where there is no terminal."""

from __future__ import annotations

import io
import resource
import sys
import time
from typing import Any, Callable, Dict, Iterator, Sequence, TypeVar

import mxnet as mx
from rich.columns import Columns
from rich.console import Console
from tqdm import tqdm

T = TypeVar("T")
EVERY = 30  # seconds between lines without a terminal


class Progress:
    """An epoch's bar: loss, learning rate, images/s, share of time waiting for data, memory, ETA.

    say: prints a line; used instead of the bar where stderr is no terminal.
    """

    def __init__(
        self, title: str, done: int, steps: int, context: mx.Context, say: Callable[[str], None]
    ):
        self._title, self._say, self._context = title, say, context
        self._begun = self._told = time.perf_counter()
        self._waited = 0.0
        self._first, self._steps = done, steps
        self._bar = tqdm(total=steps, initial=done, desc=title, unit="step", disable=None, leave=False)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def waits(self, batches: Iterator[T]) -> Iterator[T]:
        """The batches; the time until each one comes counts as waiting for data."""
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            self._waited += time.perf_counter() - asked
            if batch is None:
                return
            yield batch

    @property
    def seconds(self) -> float:
        """Since the epoch, or its resumed rest, began."""
        return time.perf_counter() - self._begun

    @property
    def waiting(self) -> float:
        """The share of that time in which the devices were given nothing, for want of data."""
        return self._waited / max(self.seconds, 1e-9)

    def show(self, done: int, losses: Dict[str, float], lr: float, images: int, steps_left: int) -> None:
        """Bring the bar to `done` steps; losses: their means over the epoch so far."""
        eta = steps_left * self.seconds / max(done - self._first, 1)
        parts = losses if len(losses) > 1 else {}
        shown = {
            "loss": f"{sum(losses.values()):.4f}",
            **{name: f"{value:.4f}" for name, value in parts.items()},
            "lr": f"{lr:.2g}",
            "img/s": f"{images / max(self.seconds, 1e-9):.1f}",
            "wait": f"{self.waiting:.0%}",
            "mem": f"{memory(self._context) / 2**30:.1f}G",
            "eta": tqdm.format_interval(eta),
        }
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update(done - self._bar.n)
        if not sys.stderr.isatty() and time.perf_counter() - self._told >= EVERY:
            self._told = time.perf_counter()
            told = "  ".join(f"{name} {value}" for name, value in shown.items())
            self._say(f"{self._title}  step {done}/{self._steps}  {told}")


def memory(context: mx.Context) -> int:
    """Bytes in use: the card's, or this process's largest so far where the device is the CPU."""
    if context.device_type == "gpu":
        free, total = mx.context.gpu_memory_info(context.device_id)
        return total - free
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def table(per_class: Sequence[Dict[str, Any]], width: int = 100) -> str:
    """The IoU of each class, in columns; a class that is in no image shows a dash."""
    longest = max(len(row["name"]) for row in per_class)
    cells = [
        f"{row['name']:<{longest}} " + ("  -  " if row["iou"] is None else f"{row['iou']:.3f}")
        for row in per_class
    ]
    text = io.StringIO()
    console = Console(file=text, width=width, color_system=None, markup=False, highlight=False)
    console.print(Columns(cells, padding=(0, 3)))
    return "\n".join(f"    {line.rstrip()}" for line in text.getvalue().splitlines())
