"""A process of a launched job: `python -m segtrain.machines.member COMMAND...` (`segtrain launch`).

Its standard input is its lifeline: the line "stop" asks it to save and stop, and where the input
ends, because the launcher is gone or has closed it, the process ends at once. That holds over
ssh too, which carries no signals.
"""

from __future__ import annotations

import glob
import os
import runpy
import signal
import sys
import threading
from typing import List

from segtrain.machines import heartbeat


def main(arguments: List[str]) -> None:
    """Run a command as a worker, or MXNet's scheduler or server; never returns."""
    heartbeat.begin()
    # Python's tracker clears away what os._exit leaves, and needn't say so.
    ignored = [os.environ.get("PYTHONWARNINGS"), "ignore:resource_tracker"]
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, ignored))
    threading.Thread(target=_listen, daemon=True).start()
    _choose_cards()
    code = 0
    try:
        if os.environ.get("DMLC_ROLE", "worker") == "worker":
            _work(arguments)
        else:
            heartbeat.tell(stage="joining")
            import mxnet  # noqa: F401  (runs the scheduler or the server, and ends the process)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    # MXNet and Horovod would wait for the others before they end; the launcher looks after them.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _work(arguments: List[str]) -> None:
    sys.argv = ["segtrain", *arguments]
    runpy.run_module("segtrain", run_name="__main__")


def _listen() -> None:
    while True:
        heard = os.read(0, 1024)
        if not heard:
            os._exit(1)
        if b"stop" in heard:
            os.kill(os.getpid(), signal.SIGINT)


def _choose_cards() -> None:
    """Of a host's cards, those of this process's turn among the host's ranks."""
    turn, ranks = (int(os.environ.get(f"SEGTRAIN_LOCAL_{n}", d)) for n, d in (("RANK", 0), ("RANKS", 1)))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    cards = visible.split(",") if visible else _numbers("/dev/nvidia[0-9]*")
    if ranks > 1 and len(cards) >= ranks:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(cards[turn::ranks])


def _numbers(pattern: str) -> List[str]:
    return [str(number) for number in range(len(glob.glob(pattern)))]


if __name__ == "__main__":
    main(sys.argv[1:])
