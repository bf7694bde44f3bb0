"""Ctrl-C and SIGTERM as a request: the first one asks to stop, the second one stops."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any


class StopRequest:
    """True once SIGINT or SIGTERM came; the second one ends the process at once.

    A thread hears of the signals, because Python would tell the main one only when it comes back
    from waiting for a device. Outside the main thread no signal can be caught, and none is.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}
        self._pipe = (-1, -1)

    def __call__(self) -> bool:
        return self.asked

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
            if self.asked:
                print("stopped at once; what was saved before is whole", file=sys.stderr, flush=True)
                os._exit(130)
            self.asked = True
            print("\nstopping after this step (again: at once, without saving)", file=sys.stderr)
