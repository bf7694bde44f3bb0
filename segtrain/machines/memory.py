"""How much memory there is for this process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Optional

_CGROUPS = Path("/sys/fs/cgroup")
_V2 = ("memory.max", "memory.current", "memory.stat", "inactive_file")
_V1 = (
    "memory/memory.limit_in_bytes",
    "memory/memory.usage_in_bytes",
    "memory/memory.stat",
    "total_inactive_file",
)


def available(meminfo: Path = Path("/proc/meminfo"), root: Path = _CGROUPS) -> int:
    """Bytes that can still be taken, of the machine and of a container's share of it.

    What the system keeps of files that were read counts: it gives that up for whoever needs it.
    """
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    free = _number(meminfo, "MemAvailable:", free // 1024) * 1024
    most = limit(root)
    if most is None:
        return free
    _, usage, stat, files = _V2 if (root / _V2[0]).exists() else _V1
    used = int((root / usage).read_text()) - _number(root / stat, files, 0)
    return max(0, min(free, most - used))


def limit(root: Path = _CGROUPS) -> Optional[int]:
    """The bytes of memory that a container may use (cgroups 2, else 1); None without a limit."""
    for name in (_V2[0], _V1[0]):
        try:
            text = (root / name).read_text().strip()
        except OSError:
            continue
        return int(text) if text.isdigit() and int(text) < 1 << 50 else None
    return None


def _number(file: Path, name: str, default: int) -> int:
    """The number behind a name in a file of names and numbers."""
    try:
        rows = [line.split() for line in file.read_text().splitlines()]
    except OSError:
        return default
    return next((int(row[1]) for row in rows if row[:1] == [name]), default)
