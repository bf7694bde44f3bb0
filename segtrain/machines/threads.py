"""How many threads a computation should use."""

from __future__ import annotations

import os
from pathlib import Path


def cores() -> int:
    """The physical cores that this process may run on."""
    cpus = os.sched_getaffinity(0)
    files = [Path(f"/sys/devices/system/cpu/cpu{i}/topology/thread_siblings_list") for i in cpus]
    return len({f.read_text() if f.exists() else str(f) for f in files})
