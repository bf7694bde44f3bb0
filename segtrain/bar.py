"""The bar of what takes long; where stderr is no terminal, a line every half minute in its place."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from typing import Any, Iterator

from tqdm import tqdm

EVERY = 30.0  # seconds between the lines
_LINE = "{desc}: {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}]"
_mute = False


@contextmanager
def muted(mute: bool) -> Iterator[None]:
    """No lines meanwhile, if `mute`."""
    global _mute
    before, _mute = _mute, _mute or mute
    try:
        yield
    finally:
        _mute = before


class Bar(tqdm):
    """tqdm's bar on a terminal; elsewhere, as in a file of `nohup`, lines. The arguments are tqdm's."""

    def __init__(self, iterable: Any = None, *, desc: str, unit: str = "it", **options: Any):
        super().__init__(iterable, desc=desc, unit=unit, disable=None, **options)
        self._title, self._unit = desc, unit
        self._first, self._begun = self.n, time.monotonic()
        self._told = self._begun

    def __iter__(self) -> Iterator[Any]:
        if not self.disable:
            yield from super().__iter__()
            return
        for each in self.iterable:
            yield each
            self.update()

    def update(self, n: float | None = 1) -> bool | None:
        if not self.disable:
            return super().update(n)
        self.n += n or 0
        now = time.monotonic()
        if now - self._told >= EVERY and not _mute:
            self._told = now
            print(self._line(now - self._begun), file=sys.stderr, flush=True)
        return None

    def _line(self, seconds: float) -> str:
        form: Any = {"prefix": self._title, "unit": self._unit, "bar_format": _LINE}
        total: Any = self.total  # None where it isn't known, which tqdm's stubs forbid
        return self.format_meter(self.n, total, seconds, initial=self._first, **form)
