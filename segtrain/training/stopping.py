"""Requests to stop: Ctrl-C and SIGTERM (the second one stops at once), a file, a time that is up."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable


class StopRequest:
    """True once a stop was asked for; `reason` says how. A second signal ends the process at once.

    By SIGINT or SIGTERM, by the file `watch_for` appearing (it is removed then), or because
    `seconds` have passed. Among several ranks, `agree` says when all of them stop.

    A thread hears of the signals, because Python would tell the main one only when it comes back
    from waiting for a device. Outside the main thread no signal can be caught, and none is.
    """

    def __init__(self, seconds: float = float("inf")) -> None:
        self.reason = ""
        self.agree: Callable[[bool], bool] = lambda stop: stop
        self._deadline = time.monotonic() + seconds
        self._file: Path | None = None
        self._looked = 0.0
        self._before: dict[int, Any] = {}
        self._pipe = (-1, -1)

    def __call__(self) -> bool:
        if not self.reason and time.monotonic() >= self._looked + 0.5:
            self._look()
        return self.agree(bool(self.reason))

    def watch_for(self, file: Path) -> None:
        """Take the appearance of `file` for a request too."""
        self._file = file

    def _look(self) -> None:
        self._looked = time.monotonic()
        if self._looked >= self._deadline:
            self.reason = "--max-time is up"
        elif self._file and self._file.exists():
            self._file.unlink(missing_ok=True)  # another rank may have been faster
            self.reason = f"{self._file} asked for it"

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._pipe = os.pipe()
            os.set_blocking(self._pipe[1], False)
            signal.set_wakeup_fd(self._pipe[1])
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, lambda *_: None)
            threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._before:
            signal.set_wakeup_fd(-1)
            os.close(self._pipe[1])

    def _listen(self) -> None:
        while True:
            heard = os.read(self._pipe[0], 1)
            if not heard:
                os.close(self._pipe[0])
                return
            if heard[0] not in self._before:
                continue
            if self.reason:
                print("stopped at once; what was saved before is whole", file=sys.stderr, flush=True)
                os._exit(130)
            self.reason = signal.Signals(heard[0]).name
            print("\nstopping after this step (again: at once, without saving)", file=sys.stderr)
