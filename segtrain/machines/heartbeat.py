"""What a process of a launched job tells its launcher: where it stands, once a second, on stdout."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from typing import Any, Dict, Optional

MARK = "@segtrain "  # begins a line that is for the launcher
EVERY = 1.0  # seconds

_state: Dict[str, Any] = {"stage": "starting", "progress": 0, "cpu": 0.0, "pid": os.getpid()}
_begun, _writing = threading.Event(), threading.Lock()


def tell(**state: Any) -> None:
    """Say that a stage (starting, joining, training, saving, reporting) has begun, or which run."""
    _state.update(state)
    if _begun.is_set():
        _write()


def advance() -> None:
    """Count a step, or an image that was judged: the training isn't stuck."""
    _state["progress"] += 1


def parse(line: str) -> Optional[Dict[str, Any]]:
    """What a line of a process says of it; None where the line isn't for the launcher."""
    return json.loads(line[len(MARK) :]) if line.startswith(MARK) else None


def begin() -> None:
    """Beat from now on, in a thread."""
    _state["pid"] = os.getpid()
    _begun.set()
    threading.Thread(target=_beat, daemon=True).start()


def _beat() -> None:
    while True:
        _write()
        time.sleep(EVERY)


def _write() -> None:
    _state["cpu"] = time.process_time()
    with _writing:
        try:
            sys.stdout.write(f"{MARK}{json.dumps(_state)}\n")
            sys.stdout.flush()
        except OSError:  # nobody listens any more
            os._exit(1)
