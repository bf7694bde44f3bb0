"""The speed of a config on this machine: data path, step, both together, evaluation."""

from __future__ import annotations

import statistics
from typing import Any, Dict, List

from segtrain.bar import Bar
from segtrain.config import Config
from segtrain.machines.devices import contexts as find_devices
from segtrain.training import timing
from segtrain.training.dryrun import Stage, bottleneck
from segtrain.training.progress import memory
from segtrain.training.train import prepare

WANTED = ("data", "step", "loop", "evaluation")


def measure(config: Config, device: str = "auto", rounds: int = 5, steps: int = 8) -> Dict[str, Any]:
    """Images per second of each part, medians of `rounds` rounds in which they take turns.

    data: the loader alone; step: forward, backward and update on batches that are there; loop: as
    training runs; evaluation: a validation image, read and judged. `loop_efficiency` is the loop's
    speed over the step's, round by round.
    """
    with prepare(config, find_devices(device)) as made:
        batches = timing.keep(made, steps)
        timing.warm_up(made, batches[0])
        timing.image(made, 0)
        seconds: Dict[str, List[float]] = {name: [] for name in WANTED}
        for number in Bar(range(rounds), desc="bench", unit="round", leave=False):
            seconds["data"].append(timing.data(made, number, 2 * steps))
            seconds["step"].append(timing.step(made, batches, steps))
            seconds["loop"].append(timing.loop(made, number, steps))
            seconds["evaluation"].append(timing.image(made, number))
        workers, peak, size = made.workers, memory(made.learner.contexts[0]), len(batches[0].indices)
        epochs, validation = made.config.train.epochs, len(made.val.ids)
        whole, evaluations = len(made.loader) * epochs, -(-epochs // config.eval.every)
    middle = {name: statistics.median(times) for name, times in seconds.items()}
    images = {"evaluation": 1}
    stages = [
        Stage("data", middle["data"], whole),
        Stage("step", middle["step"], whole),
        Stage("evaluation", middle["evaluation"] * validation, evaluations),
    ]
    return {
        "images_per_second": {n: images.get(n, size) / s for n, s in middle.items()},
        "loop_efficiency": statistics.median(
            s / loop for s, loop in zip(seconds["step"], seconds["loop"])
        ),
        "seconds": seconds,
        "workers": workers,
        "peak_bytes": peak,
        "bottleneck": bottleneck(stages, workers),
    }
