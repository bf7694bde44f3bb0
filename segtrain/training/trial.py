"""How large a batch the memory holds, found by steps in fresh processes: `train.batch: auto`."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import Any, List, NamedTuple, Optional

import mxnet as mx
import numpy as np
from tqdm import tqdm

from segtrain import config as configs
from segtrain import plugins
from segtrain.bar import Bar
from segtrain.config import Config
from segtrain.data.dataset import Dataset
from segtrain.data.loader import Batch
from segtrain.errors import UserError
from segtrain.machines import memory

LARGEST = 64  # a larger batch seldom trains faster, and needs another learning rate
SHARE = 0.8  # of the memory that is free on the CPU


def largest_batch(config: Config, dataset: Dataset, weights: np.ndarray, contexts: list) -> int:
    """The largest power of two whose training step fits into the devices' memory.

    No larger than 64 or the split. UserError where not even one image per device fits.
    """
    limit = memory.available() * SHARE if contexts[0].device_type == "cpu" else float("inf")
    batch, found, peaks = 1, 0, [0.0]
    with Bar(desc="train.batch=auto", unit="trial", leave=False) as bar:
        while batch <= min(LARGEST, len(dataset.ids)):
            expected = 2 * peaks[-1] - peaks[-2] if len(peaks) > 2 else 0
            peak = _peak(config, dataset, weights, contexts, batch) if expected < limit else None
            bar.update()
            if peak is None or peak > limit:
                break
            peaks.append(peak)
            found, batch = batch, batch * 2
    if not found:
        raise UserError(
            f"train.batch=auto: not even one image of {list(config.data.crop)} fits into the memory; "
            "write a smaller data.crop, or fewer model.widths"
        )
    tqdm.write(f"train.batch=auto: {found}", file=sys.stderr)
    return found


def is_of_memory(message: str) -> bool:
    """Whether MXNet or the system says that memory is full."""
    of_cuda = ("out of memory", "status_alloc_failed")
    signs = (*of_cuda, "failed to allocate", "bad_alloc", "cannot allocate memory")
    return any(sign in message.lower() for sign in signs)


def _peak(
    config: Config, dataset: Dataset, weights: np.ndarray, contexts: list, batch: int
) -> Optional[float]:
    """The bytes that a process takes for steps of that batch; None where they don't fit."""
    question = {
        "config": config.model_dump(mode="json"),
        "classes": dataset.classes,
        "ignore": dataset.ignore,
        "dtype": dataset.dtype,
        "weights": weights.tolist(),
        "devices": [(c.device_type, c.device_id) for c in contexts],
        "batch": batch,
    }
    done = subprocess.run(
        [sys.executable, "-m", "segtrain.training.trial"],
        input=json.dumps(question),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        return float(done.stdout.splitlines()[-1])
    if done.returncode == -signal.SIGKILL or is_of_memory(done.stderr):
        return None
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    raise UserError(f"train.batch=auto: a trial failed: {last}")


class _Blank(NamedTuple):
    """A dataset of which only the outside is needed."""

    ids: List[str]
    classes: List[str]
    ignore: int
    dim: int


def _answer(question: dict[str, Any]) -> int:
    """In the fresh process: two steps on noise, and the bytes that they took."""
    from segtrain.training.learner import Learner
    from segtrain.training.progress import memory as used

    plugins.use_known()
    config = configs.parse(question["config"])
    contexts = [mx.Context(*device) for device in question["devices"]]
    count, crop = question["batch"], config.data.crop
    blank = _Blank([""] * count, question["classes"], question["ignore"], config.model.dim)
    chance = np.random.default_rng(0)
    images = chance.integers(0, 255, (count, config.model.in_channels, *crop)).astype(question["dtype"])
    masks = chance.integers(0, len(blank.classes), (count, *crop)).astype(np.uint8)
    train = config.train.model_copy(update={"batch": count})
    config = config.model_copy(update={"train": train})
    learner = Learner(config, blank, np.array(question["weights"]), contexts, 2)
    for number in range(2):
        learner.step(Batch(images, masks, list(range(count))), number)
    learner.losses()
    return used(contexts[0])


if __name__ == "__main__":
    print(_answer(json.load(sys.stdin)))
