"""The clean process that the loader's workers are forked from, started before it is needed."""

from __future__ import annotations

import multiprocessing
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext


def start() -> ForkServerContext:
    """Let it load what the workers need, while this process goes on; at once if it runs already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([f"segtrain.data.{name}" for name in ("loader", "cache", "pairs")])
    forkserver.ensure_running()
    return context
