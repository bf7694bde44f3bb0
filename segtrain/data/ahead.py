"""What is begun while MXNet is still being imported: the loader's server, and a look at the dataset."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from contextlib import contextmanager, suppress
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from typing import TYPE_CHECKING, Iterator

if TYPE_CHECKING:  # this module must be light
    from segtrain.config import Data


def serve() -> ForkServerContext:
    """Start the clean process that the loader's workers are forked from, unless it runs already.

    It loads what they need while this process goes on.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([f"segtrain.data.{name}" for name in ("loader", "cache", "pairs")])
    forkserver.ensure_running()
    return context


@contextmanager
def looking(data: Data) -> Iterator[None]:
    """Read the samples in a process of its own, beside what this one does within.

    What it finds lies in the ledger then, where `scan` takes it from; what is wrong is left for `scan`
    to tell.
    """
    command = [sys.executable, "-m", "segtrain.data.scan"]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, text=True)
    try:
        assert child.stdin
        with suppress(BrokenPipeError):
            child.stdin.write(f"{data.model_dump_json()}\n")
            child.stdin.flush()
        yield
        child.wait()
    finally:
        child.kill()
        child.communicate()
