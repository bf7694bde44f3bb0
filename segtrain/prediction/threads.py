"""How many threads and processes a computation should use."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Optional


def cores() -> int:
    """The physical cores that this process may run on."""
    cpus = os.sched_getaffinity(0)
    files = [Path(f"/sys/devices/system/cpu/cpu{i}/topology/thread_siblings_list") for i in cpus]
    return len({f.read_text() if f.exists() else str(f) for f in files})


def threads() -> int:
    """As many as there are cores, and no more than a container's share of them."""
    return max(1, min(cores(), int(quota() or cores())))


def cpus() -> int:
    """The processors, two of a core that runs two threads, that this process may keep busy."""
    allowed = len(os.sched_getaffinity(0))
    return max(1, min(allowed, int(quota() or allowed)))


def quota(root: Path = Path("/sys/fs/cgroup")) -> Optional[float]:
    """The CPUs that a container may use by its quota (cgroups 2, else 1); None without one."""
    try:
        limit, period = (root / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            limit = (root / "cpu/cpu.cfs_quota_us").read_text().strip()
            period = (root / "cpu/cpu.cfs_period_us").read_text()
        except OSError:
            return None
    return None if limit in ("max", "-1") else int(limit) / int(period)
